"""Settings that are gone: for each, what to do instead.

A flag, an environment variable or a key of the file with such a name is refused with its sentence.
"""

from __future__ import annotations

_FIXED = "this setting was removed: its default applies, so remove it"
_BING = (
    "Microsoft shut down the Bing Search API in August 2025: remove bing and use ddgs, searxng,"
    " brave or tavily"
)


def _moved(table: str, key: str) -> str:
    return (
        f"this setting moved: set {key} in the table [{table}] of the settings file, or"
        f" SLOTPROXY_{table.upper()}_{key.upper()} in the environment"
    )


REMOVED = {
    "bing_key": _BING,
    "moderation_model": "/v1/moderations was removed: ask a chat model, with a JSON schema",
    # Now in a table of the file.
    **{f"chatglm_{key}": _moved("chatglm", key) for key in ("load", "unload", "threads")},
    "chatglm_isolation": "this setting was removed: a model always runs in a child process",
    **{f"agent_{key}": _moved("agent", key) for key in ("rounds", "timeout", "tokens")},
    "tool_timeout": _moved("agent", "tool_timeout"),
    **{key: _moved("search", key) for key in ("brave_key", "tavily_key")},
    "search_timeout": _moved("search", "timeout"),
    **{
        f"oidc_{key}": _moved("oidc", key)
        for key in (
            *("issuer", "client_id", "client_secret", "name", "scopes", "redirect_url"),
            *("user_claim", "team_claim", "admins", "allow"),
        )
    },
    # Now a constant, in `fixed` or beside its user.
    "body_timeout": f"{_FIXED} (60 seconds, plus one for each 500 bytes received)",
    "connect_timeout": f"{_FIXED} (5 seconds)",
    "health_deadline": f"{_FIXED} (30 seconds)",
    "json_retries": f"{_FIXED} (one retry)",
    "local_embeddings_unload": f"{_FIXED} (300 seconds)",
    "max_media": f"{_FIXED} (20 MiB for an image or audio clip)",
    "max_parallel_calls": f"{_FIXED} (8 calls); a request sets max_tool_calls",
    "quota_documents": f"{_FIXED} (10000 documents); --quota-bytes bounds their size",
    "quota_files": f"{_FIXED} (10000 files); --quota-bytes bounds their size",
    "reading_memory": f"{_FIXED} (1 GiB)",
    "reading_timeout": f"{_FIXED} (600 seconds)",
    "send_timeout": f"{_FIXED} (60 seconds)",
    "side_jobs": f'{_FIXED} ("### Task:", as Open WebUI begins them)',
    "sse_ping_interval": f"{_FIXED} (15 seconds)",
    "stored_responses": f"{_FIXED} (1000 responses for each API key)",
    "threads": f"{_FIXED} (64 threads of waitress)",
    # Without a successor.
    "worker_class": "this setting was removed: gunicorn serves with slotproxy's own worker; remove"
    " it, or use --server waitress for threads",
    "all": "this setting was removed: everything but --chatchat is on by default, and `slotproxy"
    " doctor` shows the state of each part",
    "cached_weight": "this setting was removed: cached prompt tokens count like others; give them a"
    " price of their own with cached in a [[price]] table and limit money instead",
    "embedding_shortens": "this setting was removed: a request with fewer dimensions than the"
    " model's gets shorter vectors, with a warning; remove it",
    "ignore_unsupported": "this setting was removed: a parameter that a backend does not support is"
    " refused with 400; leave it out of the request",
    "limits_fail": "this setting was removed: requests of keys with limits are refused with 503"
    " while Redis is away; remove it",
    "prefix_hygiene": "this setting was removed: prompts are sent as they are; remove it",
    "response_store": "this setting was removed: use --data, which keeps responses in the database"
    " with everything else",
}

# Values that a setting does not take any more.
REMOVED_VALUES = {("search_engine", "bing"): _BING}
