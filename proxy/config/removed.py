"""Settings that are gone: for each, what to do instead. Their use is refused with that."""

from __future__ import annotations

_GONE = "this setting was removed"

# Those that are now in a table of the file, by its name; their names began with it.
_MOVED = {
    "chatglm": "isolation load threads",
    "agent": "rounds timeout tokens",
    "oidc": "issuer client_id client_secret name scopes redirect_url user_claim team_claim admins"
    " allow",
}
_NOW_IN = {f"{table}_{key}": (table, key) for table in _MOVED for key in _MOVED[table].split()}
_NOW_IN |= {key: ("search", key) for key in ("brave_key", "tavily_key")}
_NOW_IN |= {"search_timeout": ("search", "timeout"), "tool_timeout": ("agent", "tool_timeout")}
# Now constants, in `fixed` or beside their users.
_FIXED = """body_timeout chatglm_unload connect_timeout health_deadline json_retries
    local_embeddings_unload max_media max_parallel_calls quota_documents quota_files
    reading_memory reading_timeout send_timeout side_jobs sse_ping_interval
    stored_responses threads"""
_OTHERS = {
    "all": "everything but --chatchat is on by default",
    "bing_key": "Microsoft shut down the Bing Search API; use ddgs, searxng, brave or tavily",
    "cached_weight": "give cached tokens a price of their own in a [[price]], and limit money",
    "embedding_shortens": "a request with fewer dimensions gets shorter vectors, with a warning",
    "hide_forbidden": "what a key may not use is answered with 403 and the name of the right",
    "ignore_unsupported": "leave parameters that a backend does not support out of the request",
    "limits_fail": "requests of keys with limits are refused with 503 while Redis is away",
    "moderation_model": "ask a chat model, with a JSON schema",
    "prefix_hygiene": "prompts are sent as they are",
    "response_store": "use --data, which keeps responses in the database with everything else",
    "worker_class": "gunicorn serves with slotproxy's own worker; --server waitress has threads",
}

REMOVED = {
    **{
        name: f"this setting moved: set {key} in the table [{table}] of the settings file, or"
        f" SLOTPROXY_{table.upper()}_{key.upper()} in the environment"
        for name, (table, key) in _NOW_IN.items()
    },
    **dict.fromkeys(_FIXED.split(), f"{_GONE}: its default applies, so remove it"),
    **{name: f"{_GONE}: {why}" for name, why in _OTHERS.items()},
}
