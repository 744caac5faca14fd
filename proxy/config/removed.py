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
    "worker_class": f"{_GONE}: gunicorn serves with slotproxy's own worker; remove it, or use"
    " --server waitress for threads",
    "all": f"{_GONE}: everything but --chatchat is on by default, and `slotproxy doctor` shows the"
    " state of each part",
    "cached_weight": f"{_GONE}: cached prompt tokens count like others; give them a price of their"
    " own with cached in a [[price]] table and limit money instead",
    "embedding_shortens": f"{_GONE}: a request with fewer dimensions than the model's gets shorter"
    " vectors, with a warning; remove it",
    "ignore_unsupported": f"{_GONE}: a parameter that a backend does not support is refused with"
    " 400; leave it out of the request",
    "limits_fail": f"{_GONE}: requests of keys with limits are refused with 503 while Redis is"
    " away; remove it",
    "prefix_hygiene": f"{_GONE}: prompts are sent as they are; remove it",
    "response_store": f"{_GONE}: use --data, which keeps responses in the database with everything"
    " else",
}

# Values that a setting does not take any more.
REMOVED_VALUES = {("search_engine", "bing"): _BING}
