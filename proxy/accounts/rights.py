"""What a key, user or team may do, and what a request may do that all three must permit.

Empty rights permit everything, and each can only take away; only `admin`, `share`, `pull`
and `trusted_for_users` are given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import force_setattr

from ..errors import Forbidden
from .limits import NO_LIMITS, Limits

Priority = Literal["", "high", "normal", "low"]
OnOverflow = Literal["", "refuse", "compact"]
Capture = Literal["", "off", "failed", "all"]
CAPTURES: tuple[Capture, ...] = ("off", "failed", "all")
Loops = Literal["", "auto", "off", "end", "mend"]
LOOPS: tuple[Loops, ...] = ("auto", "off", "end", "mend")
OVERFLOWS: tuple[OnOverflow, ...] = ("refuse", "compact")
PRIORITIES: tuple[Priority, ...] = ("low", "normal", "high")  # the lowest first
# The groups of routes. An API that a package adds may have one of its own name besides.
APIS = tuple(
    "chat completions embeddings responses messages ollama mcp media native files knowledge pages"
    " status admin".split()
)
# LiteLLM's names of groups. The first has all that are not about something else.
LLM_ROUTES = "llm_api_routes"
_OTHERS = frozenset({"files", "knowledge", "pages", "status", "admin"})
API_GROUPS = {
    LLM_ROUTES: frozenset(APIS) - _OTHERS,  # and those of added APIs
    "openai_routes": frozenset(
        {"chat", "completions", "embeddings", "responses", "media", "files", "knowledge"}
    ),
    "anthropic_routes": frozenset({"messages"}),
    "info_routes": frozenset({"status"}),
    "management_routes": frozenset({"admin"}),
}


class Rights(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Names may be patterns with `*`; `apis` has names of APIS and API_GROUPS. `tools` are those
    that the gateway runs itself, `networks` those of the client. `priority` is the highest class in
    the queue. Keys of one `group` share cached prompts. `on_overflow` is for conversations that do
    not fit, `capture` says which requests are captured, `loops` what happens to answers that repeat
    themselves, `late_binding` which lines of the system message are moved. `share` lets
    conversations be shared, `pull` models be downloaded and deleted. Requests of a key that is
    `trusted_for_users` name their person."""

    models: tuple[str, ...] = ()
    apis: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    knowledge: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    barred_tiers: tuple[str, ...] = ()
    read_only: bool = False
    admin: bool = False
    share: bool = False
    pull: bool = False
    trusted_for_users: bool = False
    priority: Priority = ""
    group: str = ""
    limits: Limits = NO_LIMITS
    on_overflow: OnOverflow = ""
    capture: Capture = ""
    loops: Loops = ""
    late_binding: tuple[str, ...] = ()


class Permissions(Struct, frozen=True):
    """The rights of a request's key, user and team."""

    rights: tuple[Rights, ...] = ()
    barred_tiers: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.rights:
            barred = frozenset(name for rights in self.rights for name in rights.barred_tiers)
            force_setattr(self, "barred_tiers", barred)

    def first(self, name: str, default: Any) -> Any:
        """The first value that a right has for this field, in the order of key, user and team."""
        return next(filter(None, (getattr(rights, name) for rights in self.rights)), default)

    def _permit(self, what: str, names: Iterable[str]) -> bool:
        """Whether all rights permit `what` with any of these names."""
        for granted in self.rights:
            patterns = getattr(granted, what)
            if patterns and not any(matches(p, name) for p in patterns for name in names):
                return False
        return True

    def permits_model(self, *names: str) -> bool:
        return self._permit("models", names)

    def check_model(self, requested: str, *names: str) -> None:
        """Raises Forbidden; `requested` is what the client calls the model."""
        if self.rights and not self.permits_model(*names):
            means = f" (asked for as {requested[:100]!r})" if requested not in ("", *names) else ""
            what = f"the model {names[0][:100]!r}{means}: its models do not include it"
            raise _refused(what, code="model_forbidden", param="model")

    def permits_tool(self, name: str) -> bool:
        return self._permit("tools", (name,))

    def check_tool(self, name: str) -> None:
        """Raises Forbidden."""
        if not self.permits_tool(name):
            what = f"the tool {name[:100]!r}: its allowed_tools do not include it"
            raise _refused(what, code="tool_forbidden")

    @property
    def bounds_knowledge(self) -> bool:
        return any(granted.knowledge for granted in self.rights)

    def permits_base(self, *names: str) -> bool:
        return self._permit("knowledge", names)

    def check_base(self, requested: str, *names: str) -> None:
        """Raises Forbidden; `requested` is what the client calls the base."""
        if not self.permits_base(*names):
            why = "its allowed_knowledge_bases do not include it"
            what = f"the knowledge base {requested[:100]!r}: {why}"
            raise _refused(what, code="knowledge_forbidden")

    def check_tiers(self, model: str, tiers: Collection[str]) -> None:
        """`tiers` are those of the model's backends. Raises Forbidden if none may be used."""
        if tiers and self.barred_tiers.issuperset(tiers):
            what = f"the model {model[:100]!r}: its barred_tiers include all tiers of the model"
            raise _refused(what, code="tier_forbidden", param="model")

    def check_route(self, api: str, path: str, *, reads: bool) -> None:
        """`api` is the group of the route, `path` its rule. Raises Forbidden."""
        for granted in self.rights:
            if granted.apis and api and not _permits_api(granted.apis, api, path):
                what = f"the API {api!r}: its allowed_routes do not include it"
                raise _refused(what, code="route_forbidden")
            if granted.read_only and not reads:
                raise _refused("this route: it is read only", code="route_forbidden")

    def check_peer(self, address: str) -> None:
        """Raises Forbidden if the key may not be used from this address."""
        for granted in self.rights:
            if granted.networks and not _within(granted.networks, address):
                raise Forbidden(
                    "this API key may not be used from your address: its allowed_ips do not"
                    " include it",
                    code="address_forbidden",
                )


def _refused(what: str, *, code: str, param: str | None = None) -> Forbidden:
    return Forbidden(f"this API key may not use {what}", code=code, param=param)


ALL = Permissions()


def priority_of(rights: Iterable[Rights]) -> Priority:
    """The lowest class that is set, "normal" if none is."""
    classes = [PRIORITIES.index(granted.priority) for granted in rights if granted.priority]
    return PRIORITIES[min(classes)] if classes else "normal"


def wrong_network(text: str) -> str:
    """Why this is no address or network, "" if it is one."""
    try:
        ip_network(text, strict=False)
    except ValueError:
        return f"{text[:60]!r} is neither an address nor a network such as 10.0.0.0/8"
    return ""


def _permits_api(allowed: Collection[str], api: str, path: str) -> bool:
    for pattern in allowed:
        if pattern == api or api in API_GROUPS.get(pattern, ()):
            return True
        if pattern == LLM_ROUTES and api not in _OTHERS:
            return True
        if pattern.startswith("/") and matches(pattern, path):
            return True
    return False


def matches(pattern: str, name: str) -> bool:
    """Whether the name fits the pattern, in time linear in the name."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, last = rest
    at, end = len(first), len(name) - len(last)
    if at > end or not (name.startswith(first) and name.endswith(last)):
        return False
    for part in middle:
        place = name.find(part, at, end)
        if place < 0:
            return False
        at = place + len(part)
    return True


@lru_cache(maxsize=4096)
def _within(networks: tuple[str, ...], address: str) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False  # a Unix socket without a proxy that tells
    ip = getattr(ip, "ipv4_mapped", None) or ip
    # An address is in no network of another version.
    return any(ip in ip_network(text, strict=False) for text in networks)
