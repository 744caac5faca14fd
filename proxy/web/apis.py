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
    "accounts.team_info": "",
    "accounts.user_alone": "",
    "accounts.user_info": "",
    "anthropic": "messages",
    "chatchat": "chatchat",
    "data": "",
    "embeddings": "embeddings",
    "files": "files",
    "forwarding": "media",
    "forwarding.upstream": "admin",
    "glm": "glm",
    "hosting": "admin",
    "hosting.events": "status",
    "hosting.running": "status",
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
    "vector_stores": "knowledge",
}
PAGES = "pages"  # the blueprints of pages, which are all others


class Place(NamedTuple):
    """Where a rule belongs: its group, and the rule without the prefix of the gateway."""

    api: str
    path: str


def places(rules: Map, prefix: str) -> Mapping[str, Place]:
    """The place of each rule."""
    return {
        rule.rule: Place(_api(rule.endpoint), rule.rule.removeprefix(prefix))
        for rule in rules.iter_rules()
    }


def _api(endpoint: str) -> str:
    return _APIS.get(endpoint, _APIS.get(endpoint.partition(".")[0], PAGES))
