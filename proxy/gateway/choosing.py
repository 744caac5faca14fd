"""Chooses the model of a request to a route with rules: the first that can take it, in the order of
the rules. A conversation keeps its model as long as that can take it. No model is asked: what the
rules look at is read from the request, and its tokens are estimated.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from ..accounts.rights import Permissions
from ..backends.pools import LOADED, RETRY, BackendPools, Rule
from ..core.cache import BoundedCache, digest
from ..core.conversation import digests
from ..core.request import CompletionRequest
from ..errors import Forbidden, GatewayError, NoBackend, Unsupported

REMEMBERED = 16_384  # turns of conversations, and sessions
TOKEN = 4  # bytes of text, about
DOWN, BARRED = "is down", "may not be used"


class Chosen(Struct, frozen=True):
    """The `rule` is counted from 1, 0 for a conversation that keeps its model; `when` are its
    conditions. `passed` are the models before, and why each cannot take the request."""

    route: str
    model: str
    rule: int
    when: Mapping[str, Any]
    passed: tuple[tuple[str, str], ...] = ()


class Chooser:
    """With `describes`, images may be sent to any model."""

    def __init__(self, pools: BackendPools, *, describes: bool) -> None:
        self._pools = pools
        self._describes = describes
        self._models: BoundedCache[str] = BoundedCache(REMEMBERED)  # of turns and sessions

    def choose(
        self, request: CompletionRequest, owner: str, may: Permissions, *, remembers: bool
    ) -> Chosen | None:
        """The model for a request of the API key `owner`, and for what follows in its conversation
        if it `remembers`; None if the request names no route with rules. Raises Unsupported,
        Forbidden, and NoBackend if a model that is down could take it."""
        if not (route := self._pools.ruled(request.model)):
            return None
        rules = self._pools.rules[route]
        images = any(media.kind == "image" for m in request.messages for media in m.media)
        tools, tokens = bool(request.tools or request.runs_tools), _tokens(request)

        def key(of: str) -> bytes:
            return digest(f"{route}\0{owner}\0{tools}\0{of}".encode("utf-8", "replace"))

        keys = [key(request.session)] if request.session else []
        # Without the media: their texts and places tell conversations apart, at less cost.
        texts = [replace(message, media=(), parts=()) for message in request.messages]
        *_, whole = turns = [turn.hex() for turn in digests(texts)]
        earlier = map(self._models.get, chain(map(key, turns[:0:-1]), keys))
        last = next(filter(None, earlier), "")

        def obstacle(name: str, rule: Rule) -> str:
            """Why a model cannot take the request, "" if it can."""
            try:
                model = self._pools.named(name)
            except GatewayError as error:
                why = DOWN if isinstance(error, NoBackend) else "does not exist"
                return why if may.permits_model(name) else BARRED
            pool = self._pools.pool(model, may.barred_tiers)
            if not (pool and may.permits_model(name, model)):
                return BARRED
            # One that was not looked at yet is waited for.
            up, status = [b for b in pool if b.up is not False], self._pools.status(model)
            if not up:
                return DOWN
            if status == "failed":
                return "cannot be loaded"
            if rule.loaded and status not in LOADED:
                return "is not loaded"
            # Of one that was never loaded, only its rule says whether it sees.
            sees = any(b.sees or (rule.images and (b.provisional or not b.caps)) for b in up)
            if images and not (sees or self._describes):
                return "does not see images"
            contexts[name] = max(backend.n_ctx for backend in up) or tokens + 1
            return f"has a context of {contexts[name]} tokens" if contexts[name] <= tokens else ""

        def chosen(number: int, rule: Rule, name: str) -> Chosen:
            for kept in (key(whole), *keys) if remembers else ():
                self._models.put(kept, name, 1)
            when = to_builtins(rule)
            del when["models"]
            # What may not be used may not be known, either.
            visible = ((name, why) for name, why in passed.items() if why not in ("", BARRED))
            return Chosen(route, name, number, when, tuple(visible))

        contexts: dict[str, int] = {}  # of models without another obstacle
        passed: dict[str, str] = {}
        options = [(0, Rule(models=(last,)))] if any(last in r.models for r in rules) else []
        options += [(n, r) for n, r in enumerate(rules, 1) if r.applies(images, tools, tokens)]
        for number, rule in options:
            for name in rule.models:
                passed[name] = obstacle(name, rule)
                if not passed[name]:
                    return chosen(number, rule, name)
        if contexts and DOWN not in passed.values():  # the largest refuses it, or sums it up
            name = max(contexts, key=lambda name: contexts[name])
            return chosen(*next((n, r, name) for n, r in options if name in r.models))
        has = [name for name, is_there in (("images", images), ("tools", tools)) if is_there]
        size = " and ".join([*has, f"about {tokens} tokens"])
        obstacles = "; ".join(f"{name} {why}" for name, why in passed.items() if why != BARRED)
        usual = "this API key may use none" if passed else "none of its rules is for it"
        text = f"no model of {route[:100]!r} can take this request of {size}: {obstacles or usual}"
        if DOWN in passed.values():
            raise NoBackend(text, RETRY)
        if passed and not obstacles:
            raise Forbidden(text, param="model", code="model_forbidden")
        raise Unsupported(text, param="model")


def _tokens(request: CompletionRequest) -> int:
    """About how many tokens the prompt has."""
    messages, prompts = request.messages, request.prompts
    parts: list[Any] = [part for p in prompts for part in ((p,) if isinstance(p, str) else p)]
    parts += [message.content for message in messages]
    parts += [call.arguments for message in messages for call in message.tool_calls]
    parts += [tool.description + str(tool.parameters) for tool in request.tools]
    sizes = (len(p.encode("utf-8", "replace")) if isinstance(p, str) else TOKEN for p in parts)
    return sum(sizes) // TOKEN
