"""Fields that other servers add to OpenAI's API, under our names: vLLM's and SGLang's constraints
of the answer, Mistral's seed, and the switches of reasoning of DashScope, GLM and OpenRouter.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from ..core.sampling import check
from ..errors import InvalidParameter
from ..gbnf import PatternError, choice_grammar, pattern_grammar
from .fields import Body, bounded, flag, integer, mapping, text

LONGEST_PATTERN = 8192  # characters
LONGEST_CHOICES = 256 << 10  # characters of all texts that an answer may be
SAMPLERS = {"repetition_penalty": "repeat_penalty", "random_seed": "seed"}
# Constraints of the answer, and their kind: fields of their own, and those of structured_outputs.
_KINDS = ("json", "json_object", "regex", "choice", "grammar")
CONSTRAINTS = {**{f"guided_{kind}": kind for kind in _KINDS}, "regex": "regex", "ebnf": "grammar"}
KINDS = CONSTRAINTS | {f"structured_outputs.{kind}": kind for kind in _KINDS}
OURS = ("grammar", "json_schema", "response_format")  # which constrain the answer, too
MOST_TOKENS = 1 << 30
BUDGETS = ("thinking_budget", "reasoning_budget_tokens")  # DashScope's and llama-server's
THINKING = frozenset({"enable_thinking", "thinking", "reasoning", *BUDGETS})
NAMES = frozenset({*SAMPLERS, *CONSTRAINTS, *THINKING, "structured_outputs"})


def canonical(body: Body, *, chat: bool) -> Body:
    """The body, with our names. Only a `chat` has reasoning to be switched."""
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
    return out


def _constrain(out: dict[str, Any]) -> None:
    constraints = {name: out.pop(name) for name in CONSTRAINTS if name in out}
    for name, value in mapping(out, "structured_outputs").items():
        path = f"structured_outputs.{name}"
        (constraints if path in KINDS else out)[path] = value
    out.pop("structured_outputs", None)
    paths = [name for name, value in constraints.items() if value not in (None, False)]
    if not paths:
        return
    path, *others = [*paths, *(name for name in OURS if out.get(name))]
    if others:
        raise InvalidParameter(path, f"cannot be combined with {others[0]}")
    kind, value = KINDS[path], constraints[path]
    if kind == "json":
        if type(value) is str:
            with suppress(msgspec.DecodeError, RecursionError):
                value = msgspec.json.decode(value)
        if not isinstance(value, dict):
            raise InvalidParameter(path, "must be a JSON schema")
        out["json_schema"] = value
    elif kind == "json_object":
        out["json_schema"] = {"type": "object"}
    else:
        out["grammar"] = _grammar(value, kind, path)


def _grammar(value: Any, kind: str, path: str) -> str:
    if kind == "choice":
        texts = value if isinstance(value, list) else []
        if not texts or not all(type(text) is str and text for text in texts):
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
    reasoning = mapping(out, "reasoning")
    budgets = {name: out.pop(name, None) for name in BUDGETS}
    budgets["reasoning.max_tokens"] = reasoning.get("max_tokens")
    thinks = out.pop("enable_thinking", None)
    switch = out.pop("thinking", None)
    if isinstance(switch, dict):
        kind = text(switch, "type", at="thinking.")
        budgets["thinking.budget_tokens"] = switch.get("budget_tokens")
        switch = kind == "enabled" if kind in ("enabled", "disabled") else None
    for name, value in (("thinking", switch), ("reasoning.enabled", reasoning.get("enabled"))):
        thinks = thinks if value is None else flag({name: value}, name)
    if effort := text(reasoning, "effort", at="reasoning."):
        out["reasoning_effort"] = out.get("reasoning_effort") or effort
    for name in budgets:
        tokens = integer(budgets, name, -1, MOST_TOKENS)
        if out.get("max_reasoning_tokens") is None:
            out["max_reasoning_tokens"] = tokens
    out["reasoning.exclude"] = reasoning.get("exclude")
    out.pop("reasoning", None)
    if thinks is not None:
        options = mapping(out, "chat_template_kwargs")
        thinks = flag({"enable_thinking": thinks}, "enable_thinking")
        out["chat_template_kwargs"] = {"enable_thinking": thinks, **options}
