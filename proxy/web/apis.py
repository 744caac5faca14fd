"""Which group of routes each route is in, for the rights of keys (proxy/accounts/rights.py).

Every key may use the routes of the group "": they list only what it may use, or are about its own
data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from werkzeug.routing import Map

# By blueprint, or by endpoint where that differs.
_APIS: Mapping[str, str] = {
    "accounts": "admin",
    "accounts.key_info": "",
    "accounts.spend_logs": "",
    "accounts.team_info": "",
    "accounts.user_alone": "",
    "accounts.user_info": "",
    "anthropic": "messages",
    "batches": "files",
    "chatchat": "chatchat",
    "conversations": "responses",
    "data": "",
    "embeddings": "embeddings",
    "files": "files",
    "forwarding": "media",
    "forwarding.upstream": "admin",
    "glm": "glm",
    "hosting": "admin",
    "hosting.events": "status",
    "hosting.running": "status",
    "mcp": "mcp",
    "native": "native",
    "ollama": "ollama",
    "openai": "chat",
    "openai.both_completions": "completions",
    "openai.completions": "completions",
    "openai.detokenize": "native",
    "openai.model": "",
    "openai.models": "",
    "openai.tokenize": "native",
    "reference": "",
    "responses": "responses",
    "status": "status",
    "usage": "status",
    "usage.export": "",
    "usage.own": "",
    "vector_stores": "knowledge",
}
# Blueprints of pages and their scripts.
PAGE_BLUEPRINTS = frozenset(
    "chat chat_archive chat_files chat_images installed oidc options pages panel_accounts"
    " panel_knowledge panel_models panel_sessions panel_status panel_usage session".split()
)


# Those that are in another group than the other pages.
_PAGE_APIS: Mapping[str, str] = {"panel_accounts": "admin"}


class Place(NamedTuple):
    """Where a rule belongs: its group, and the rule without the prefix of the gateway."""

    api: str
    path: str


Places = Mapping[tuple[str, str], Place]
"""By method and rule."""


def places(rules: Map, prefix: str) -> Places:
    """The place of each rule. A blueprint without a row is a defect."""
    return {
        (method, rule.rule): Place(_api(rule.endpoint), rule.rule.removeprefix(prefix))
        for rule in rules.iter_rules()
        for method in (rule.methods or set()) - {"OPTIONS"}
    }


def _api(endpoint: str) -> str:
    blueprint = endpoint.partition(".")[0]
    if blueprint in PAGE_BLUEPRINTS:
        return _PAGE_APIS.get(blueprint, "pages")
    assert blueprint in _APIS, f"proxy/web/apis.py has no row for the blueprint {blueprint}"
    return _APIS.get(endpoint, _APIS[blueprint])
