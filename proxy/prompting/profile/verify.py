"""Compares our prompts with those of a server that renders them too.

llama.cpp's Jinja engine and ours may disagree, and a server knows rules for some models that no
template states. So both render probes of each kind of conversation. Where the prompts differ,
requests of this kind go to the server's own chat route. A probe's texts are words that occur
nowhere else, so that a prompt shows which of them it lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Literal

from msgspec import Struct

from ...core.decoding import decoded
from ...core.request import CompletionRequest, Message, Tool, ToolCall
from ...errors import InvalidParameter
from ..constraints import callable_tools
from ..formats.generic import GENERIC
from ..prompt import Prompter, assistant_prefill

Outcome = Literal["same", "adapted", "refused", "differs"]
"""same: the prompts are equal. adapted: ours holds more of the conversation than the server's.
refused: the server takes no such conversation, or spoils it. differs: the server's is better known
to the model."""

MAX_PROMPT = 1 << 20  # characters of a server's prompt for a probe


class Kind(Struct, frozen=True):
    """A kind of conversation, of which requests are for which `belongs` is true."""

    name: str
    probes: tuple[CompletionRequest, ...]
    belongs: Callable[[CompletionRequest], Any]


class Verdict(Struct, frozen=True):
    """The outcomes by the names of the kinds that were compared, and the names of those that go to
    the server's own chat route (`differing`), and of those that it refuses or loses parts of
    (`kept`)."""

    outcomes: Mapping[str, Outcome] = {}
    differing: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def server_kinds(self, request: CompletionRequest) -> tuple[str, ...]:
        """The kinds because of which a request goes to the server's own chat route."""
        if not self.differing:
            return ()
        kinds = kinds_of(request, self.differing)
        return kinds if kinds and not kinds_of(request, self.kept) else ()


UNKNOWN = Verdict()


def verdict(outcomes: Mapping[str, Outcome]) -> Verdict:
    differing = tuple(name for name, outcome in outcomes.items() if outcome == "differs")
    names = tuple(name for name, outcome in outcomes.items() if outcome in ("adapted", "refused"))
    return Verdict(outcomes, differing, names)


def kinds_of(request: CompletionRequest, names: Collection[str]) -> tuple[str, ...]:
    return tuple(kind.name for kind in KINDS if kind.name in names and kind.belongs(request))


def our_prompts(
    prompter: Prompter, request: CompletionRequest, now: datetime
) -> frozenset[str] | None:
    """Our prompts for a probe, also of the days before and after, since a server may be in another
    time zone. Empty if the template refuses it. None if no comparison is due: the request describes
    tools in our words, or goes to the server's own route anyway."""
    texts = set()
    for days in (0, -1, 1):
        try:
            prompt = prompter.render(request, now + timedelta(days=days))
        except InvalidParameter:
            return frozenset()
        if prompt.unknown_template or prompt.call_format is GENERIC:
            return None
        texts.add(prompt.text)
    return frozenset(texts)


def compared(request: CompletionRequest, ours: Collection[str], theirs: str | None) -> Outcome:
    """`ours` is empty if our template refuses the probe; `theirs` is None if the server does."""
    if theirs is None:
        return "refused"
    if not ours:
        return "differs"
    if theirs in ours:
        return "same"
    lost = [word for word in _words(request) if word not in theirs]
    return "adapted" if any(word in text for word in lost for text in ours) else "differs"


def outcome_of(outcomes: Iterable[Outcome]) -> Outcome:
    order: tuple[Outcome, ...] = ("same", "differs", "adapted", "refused")
    return max(outcomes, key=order.index, default="same")


def _words(request: CompletionRequest) -> list[str]:
    """The texts of a probe that its prompt must hold. Templates leave out reasoning on purpose."""
    words = [text for tool in callable_tools(request) for text in (tool.name, tool.description)]
    for message in request.messages:
        words += [piece for piece in message.pieces if isinstance(piece, str)]
        for call in message.tool_calls:
            words += [call.name, *decoded(call.arguments.encode()).values()]
    return words


_TOOL = Tool(
    name="find_star",
    description="Finds a star",
    parameters={
        "type": "object",
        "properties": {"name": {"type": "string", "description": "A name"}},
        "required": ["name"],
    },
)


def _assistant(text: str = "", **fields: Any) -> Message:
    return Message(role="assistant", content=text, **fields)


def _call(number: int, name: str) -> ToolCall:
    return ToolCall(f"call_{number:024x}", "find_star", f'{{"name": "{name}"}}')


def _result(number: int, text: str) -> Message:
    return Message(role="tool", content=text, tool_call_id=f"call_{number:024x}")


def _chat(*messages: Message, **fields: Any) -> CompletionRequest:
    return CompletionRequest(messages=messages, **fields)


def _tools(*messages: Message) -> CompletionRequest:
    return _chat(*messages, tools=(_TOOL,))


def _goes_on(request: CompletionRequest) -> bool:
    roles = [message.role for message in request.messages]
    return "tool" in roles and "user" in roles[roles.index("tool") :]


def _effort(request: CompletionRequest) -> Any:
    return request.template_kwargs.get("reasoning_effort", request.reasoning_effort)


_ASKS = Message(role="user", content="Altair?")
_ANSWERS = _assistant("Bellatrix.")
_AGAIN = Message(role="user", content="Capella?")
_RULE = Message(role="system", content="Deneb!")
_CALLS = _assistant(tool_calls=(_call(1, "Elnath"),))
_TOLD = _result(1, "Fomalhaut")
_THOUGHT = "Gienah and Hadar"

_SAID = _assistant("Kochab.", tool_calls=_CALLS.tool_calls)
_TWO_CALLS = _assistant(tool_calls=(_call(1, "Elnath"), _call(2, "Lesath")))
_THOUGHT_CALLS = _assistant(tool_calls=_CALLS.tool_calls, reasoning=_THOUGHT)


def _kind(name: str, belongs: Callable[..., Any], *probes: CompletionRequest) -> Kind:
    return Kind(name, probes, belongs)


KINDS: tuple[Kind, ...] = (
    _kind("plain", lambda r: True, _chat(_ASKS)),
    _kind(
        "history",
        lambda r: any(m.role == "assistant" for m in r.messages[:-1]),
        _chat(_ASKS, _ANSWERS, _AGAIN),
    ),
    _kind("system", lambda r: r.messages[0].role == "system", _chat(_RULE, _ASKS)),
    _kind(
        "late system",
        lambda r: any(a.role != "system" and b.role == "system" for a, b in pairwise(r.messages)),
        _chat(_ASKS, _RULE),
        _chat(_ASKS, _ANSWERS, _RULE, _AGAIN),
        _chat(_ASKS, _ANSWERS, _AGAIN, _RULE),
    ),
    _kind(
        "two users in a row",
        lambda r: any(a.role == b.role == "user" for a, b in pairwise(r.messages)),
        _chat(_ASKS, _AGAIN),
    ),
    _kind(
        "text parts",
        lambda r: any(m.parts for m in r.messages),
        _chat(Message(role="user", content="Izar.\nJabbah.", parts=(0, 6))),
    ),
    _kind("tools", callable_tools, _tools(_ASKS), _tools(_RULE, _ASKS)),
    _kind(
        "results of tools",
        lambda r: any(m.role == "tool" for m in r.messages),
        _tools(_ASKS, _CALLS, _TOLD),
        _tools(_ASKS, _SAID, _TOLD),
    ),
    _kind("question after results", _goes_on, _tools(_ASKS, _CALLS, _TOLD, _ANSWERS, _AGAIN)),
    _kind(
        "two calls in a turn",
        lambda r: any(len(m.tool_calls) > 1 for m in r.messages),
        _tools(_ASKS, _TWO_CALLS, _TOLD, _result(2, "Mizar")),
    ),
    _kind(
        "kept reasoning",
        lambda r: any(m.reasoning for m in r.messages),
        _chat(_ASKS, _assistant("Bellatrix.", reasoning=_THOUGHT), _AGAIN),
        _tools(_ASKS, _THOUGHT_CALLS, _TOLD),
    ),
    _kind(
        "effort",
        lambda r: _effort(r) not in ("", None, "none"),
        *(_chat(_ASKS, reasoning_effort=word) for word in ("low", "medium", "high")),
    ),
    _kind(
        "thinking off",
        lambda r: _effort(r) == "none" or r.template_kwargs.get("enable_thinking") is False,
        _chat(_ASKS, reasoning_effort="none"),
        _chat(_ASKS, template_kwargs={"enable_thinking": False}),
    ),
    _kind("begun answer", assistant_prefill, _chat(_ASKS, _assistant("Nashira"))),
)
