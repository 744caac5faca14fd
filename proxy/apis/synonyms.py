"""Fields that other servers add to OpenAI's API, under our names: vLLM's and SGLang's constraints
of the answer, Mistral's seed, and the switches of reasoning of DashScope, GLM and OpenRouter.

What cannot be had keeps its name, so that it is reported as ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..core.sampling import check
from ..errors import InvalidParameter
from ..gbnf import PatternError, choice_grammar, pattern_grammar
from .fields import Body, bounded, flag, integer, mapping, text

LONGEST_PATTERN = 8192  # characters
LONGEST_CHOICES = 256 << 10  # characters of all texts that an answer may be
SAMPLERS = {"repetition_penalty": "repeat_penalty", "random_seed": "seed"}
# Constraints of the answer, by kind: those within `structured_outputs`, and fields of their own.
KINDS = frozenset({"json", "json_object", "regex", "choice", "grammar"})
CONSTRAINTS: Mapping[str, str] = {
    **{f"guided_{kind}": kind for kind in KINDS},
    "regex": "regex",
    "ebnf": "grammar",
}
OURS = ("grammar", "json_schema", "response_format")  # which constrain the answer, too
THINKING = frozenset({"enable_thinking", "thinking", "reasoning"})
LEAST = "min_tokens"
NAMES = frozenset({*SAMPLERS, *CONSTRAINTS, *THINKING, "structured_outputs", LEAST})


def canonical(body: Body, *, chat: bool) -> Body:
    """The body with our names. Only a `chat` has reasoning to be switched. Raises
    InvalidParameter."""
    if body.keys().isdisjoint(NAMES):
        return body
    out = dict(body)
    for name, own in SAMPLERS.items():
        value = out.pop(name, None)
        if value is not None and out.get(own) is None:
            try:
                out[own] = check(own, value)
            except InvalidParameter as error:
                raise InvalidParameter(name, error.reason) from None
    _constrain(out)
    if chat:
        _think(out)
    _lengthen(out)
    return out


def _constrain(out: dict[str, Any]) -> None:
    found = [(name, kind, out.pop(name)) for name, kind in CONSTRAINTS.items() if name in out]
    for name, value in mapping(out, "structured_outputs").items():
        path = f"structured_outputs.{name}"
        if name in KINDS:
            found.append((path, name, value))
        else:
            out[path] = value
    out.pop("structured_outputs", None)
    found = [one for one in found if one[2] not in (None, False)]
    for path, kind, value in found[:1]:
        others = [*(other for other, *_ in found[1:]), *(name for name in OURS if out.get(name))]
        if others:
            raise InvalidParameter(path, f"cannot be combined with {others[0]}")
        if kind in ("json", "json_object"):
            out["json_schema"] = _schema(value, path) if kind == "json" else {"type": "object"}
        else:
            out["grammar"] = _grammar(value, kind, path)


def _schema(value: Any, path: str) -> Any:
    if type(value) is str:
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise InvalidParameter(path, "must be a JSON schema")
    return value


def _grammar(value: Any, kind: str, path: str) -> str:
    if kind == "choice":
        texts = value if isinstance(value, list) else []
        if not texts or not all(type(one) is str and one for one in texts):
            raise InvalidParameter(path, "must be a list of texts that are not empty")
        bounded(value, path)
        if sum(map(len, texts)) > LONGEST_CHOICES:
            raise InvalidParameter(path, f"may have at most {LONGEST_CHOICES} characters")
        return choice_grammar(value)
    if type(value) is not str:
        raise InvalidParameter(path, "must be a string")
    if kind == "grammar":
        return value
    if len(value) > LONGEST_PATTERN:
        raise InvalidParameter(path, f"may have at most {LONGEST_PATTERN} characters")
    try:
        return pattern_grammar(value)
    except PatternError as error:
        raise InvalidParameter(path, f"is not supported: {error}") from None


def _think(out: dict[str, Any]) -> None:
    if out.keys().isdisjoint(THINKING):
        return
    thinks: bool | None = None
    if out.get("enable_thinking") is not None:
        thinks = flag(out, "enable_thinking")
    switch = out.pop("thinking", None)
    if type(switch) is bool:
        thinks = switch
    elif switch is not None:
        known = mapping({"thinking": switch}, "thinking")
        kind = text(known, "type", at="thinking.")
        if kind in ("enabled", "disabled"):
            thinks = kind == "enabled"
        out["thinking.budget_tokens"] = known.get("budget_tokens")
    reasoning = mapping(out, "reasoning")
    if reasoning.get("enabled") is not None:
        thinks = flag(reasoning, "enabled", at="reasoning.")
    effort = text(reasoning, "effort", at="reasoning.")
    if effort and out.get("reasoning_effort") is None:
        out["reasoning_effort"] = effort
    out |= {f"reasoning.{name}": reasoning.get(name) for name in ("max_tokens", "exclude")}
    for name in ("enable_thinking", "reasoning"):
        out.pop(name, None)
    if thinks is not None:
        given = mapping(out, "chat_template_kwargs")
        out["chat_template_kwargs"] = {"enable_thinking": thinks, **given}


def _lengthen(out: dict[str, Any]) -> None:
    """An answer that may not end before its limit ignores the end token; other bounds from below
    cannot be had."""
    least = integer(out, LEAST, 0, 1 << 30)
    limit = out.get("max_completion_tokens") or out.get("max_tokens")
    ends = [name for name in ("stop", "tools", "functions") if out.get(name)]
    if least and type(limit) is int and least >= limit and not ends:
        out["ignore_eos"] = True
        del out[LEAST]
