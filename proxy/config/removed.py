"""Settings that are gone: for each, what to do instead.

A flag, an environment variable or a key of the file with such a name is refused with its sentence.
"""

from __future__ import annotations

_BING = (
    "Microsoft shut down the Bing Search API in August 2025: remove bing and use ddgs, searxng,"
    " brave or tavily"
)
_GONE = "this setting was removed"


def _moved(table: str, key: str) -> str:
    return (
        f"this setting moved: set {key} in the table [{table}] of the settings file, or"
        f" SLOTPROXY_{table.upper()}_{key.upper()} in the environment"
    )


_MOVED = {
    "chatglm": "isolation load unload threads",
    "agent": "rounds timeout tokens",
    "oidc": "issuer client_id client_secret name scopes redirect_url user_claim team_claim admins"
    " allow",
}
# Now constants, in `fixed` or beside their users.
_FIXED = """body_timeout connect_timeout health_deadline json_retries local_embeddings_unload
    max_media max_parallel_calls quota_documents quota_files reading_memory reading_timeout
    send_timeout side_jobs sse_ping_interval stored_responses threads"""

REMOVED = {
    "bing_key": _BING,
    "moderation_model": "/v1/moderations was removed: ask a chat model, with a JSON schema",
    **{f"{table}_{key}": _moved(table, key) for table in _MOVED for key in _MOVED[table].split()},
    "tool_timeout": _moved("agent", "tool_timeout"),
    **{key: _moved("search", key) for key in ("brave_key", "tavily_key")},
    "search_timeout": _moved("search", "timeout"),
    **dict.fromkeys(_FIXED.split(), f"{_GONE}: its default applies, so remove it"),
    "all": f"{_GONE}: everything but --chatchat is on by default",
    "cached_weight": f"{_GONE}: give cached tokens a price in a [[price]] table, and limit money",
    "embedding_shortens": f"{_GONE}: vectors with fewer dimensions are always cut",
    "ignore_unsupported": f"{_GONE}: a parameter that a backend does not support is refused",
    "limits_fail": f"{_GONE}: requests of keys with limits get 503 while Redis is away",
    "prefix_hygiene": f"{_GONE}: prompts are sent as they are",
    "response_store": f"{_GONE}: use --data, which keeps responses with everything else",
    "worker_class": f"{_GONE}: use --server waitress for threads",
}

# Values that a setting does not take any more.
REMOVED_VALUES = {("search_engine", "bing"): _BING}
