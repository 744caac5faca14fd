"""The table of sampling fields: names, types and bounds of server.cpp's /completion.

A 2023 server aborts on a field of the wrong type and reads out of bounds on some values, so nothing
else is sent upstream. `since` is the generation that introduced a name: 2023 for every server.cpp,
including PowerInfer's; 2026 for today's llama-server only. Bounds are those that both accept.

Clients of llama.cpp send all fields that its server knows. So if a backend lacks a field, its
`neutral` value is ignored silently, and so is a field that only refines another one; a hint is
ignored with a warning; any other field is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from ..errors import InvalidParameter
from . import adapters

Kind = Literal["number", "integer", "boolean", "string", "strings", "samplers", "lora"]
Lacking = Literal["refused", "told", "silent"]
NUMBERS: Mapping[str, tuple[type, ...]] = {"number": (int, float), "integer": (int,)}
INT32 = 2**31 - 1
MAX_BIASES = 16_384  # entries of logit_bias
MAX_STRINGS = 256  # in a list of samplers or sequence breakers
RANDOM = 2**32 - 1  # means "any seed" to a server, like -1


class Field(Struct, frozen=True, kw_only=True):
    kind: Kind
    low: float = -math.inf
    high: float = math.inf
    since: int = 2023
    neutral: tuple[Any, ...] = ()
    lacking: Lacking = "refused"


FIELDS: Mapping[str, Field] = {
    "temperature": Field(kind="number", low=0, high=100),
    "top_k": Field(kind="integer", low=0, high=INT32),
    "top_p": Field(kind="number", low=0, high=1),
    "min_p": Field(kind="number", low=0, high=1, neutral=(0,), lacking="told"),
    "typical_p": Field(kind="number", low=0, high=1, neutral=(1,)),
    "tfs_z": Field(kind="number", low=0, high=1, neutral=(1,)),
    "repeat_penalty": Field(kind="number", low=0, high=100),
    "repeat_last_n": Field(kind="integer", low=-1, high=INT32),
    "penalize_nl": Field(kind="boolean", neutral=(True,)),
    "presence_penalty": Field(kind="number", low=-100, high=100, neutral=(0,)),
    "frequency_penalty": Field(kind="number", low=-100, high=100, neutral=(0,)),
    "mirostat": Field(kind="integer", low=0, high=2, neutral=(0,)),
    "mirostat_tau": Field(kind="number", low=0, high=1000, lacking="silent"),
    "mirostat_eta": Field(kind="number", low=0, high=1000, lacking="silent"),
    "seed": Field(kind="integer", low=-(2**63), high=2**63 - 1, neutral=(-1,)),
    "n_keep": Field(kind="integer", low=-1, high=INT32, lacking="silent"),
    "ignore_eos": Field(kind="boolean", neutral=(False,)),
    "grammar": Field(kind="string", neutral=("",)),
    "dynatemp_range": Field(kind="number", low=0, high=100, since=2026, neutral=(0,)),
    "dynatemp_exponent": Field(kind="number", low=-100, high=100, since=2026, lacking="silent"),
    "top_n_sigma": Field(kind="number", low=-1, high=1000, since=2026, neutral=(-1, 0)),
    "xtc_probability": Field(kind="number", low=0, high=1, since=2026, neutral=(0,)),
    "xtc_threshold": Field(kind="number", low=0, high=1, since=2026, lacking="silent"),
    "dry_multiplier": Field(kind="number", low=0, high=1000, since=2026, neutral=(0,)),
    "dry_base": Field(kind="number", low=0, high=1000, since=2026, lacking="silent"),
    "dry_allowed_length": Field(kind="integer", low=0, high=INT32, since=2026, lacking="silent"),
    "dry_penalty_last_n": Field(kind="integer", low=-1, high=INT32, since=2026, lacking="silent"),
    "dry_sequence_breakers": Field(kind="strings", since=2026, lacking="silent"),
    "adaptive_target": Field(kind="number", low=-1, high=1, since=2026, neutral=(-1,)),
    "adaptive_decay": Field(kind="number", low=0, high=0.99, since=2026, lacking="silent"),
    "min_keep": Field(kind="integer", low=0, high=INT32, since=2026, lacking="silent"),
    "samplers": Field(kind="samplers", since=2026, lacking="told"),
    "n_discard": Field(kind="integer", low=0, high=INT32, since=2026, lacking="silent"),
    "n_indent": Field(kind="integer", low=0, high=INT32, since=2026, neutral=(0,), lacking="told"),
    "n_cache_reuse": Field(kind="integer", low=0, high=INT32, since=2026, lacking="silent"),
    "backend_sampling": Field(kind="boolean", since=2026, lacking="silent"),
    "t_max_predict_ms": Field(
        kind="integer", low=-1, high=INT32, since=2026, neutral=(-1, 0), lacking="told"
    ),
    "lora": Field(kind="lora", since=2026),
}

LATER = frozenset(name for name, field in FIELDS.items() if field.since > 2023)
WINDOWS = ("repeat_last_n", "dry_penalty_last_n")
OLD_REPEAT_LAST_N = 64  # the 2023 sampler keeps 64 tokens and reads out of bounds for more


def check(name: str, value: Any) -> Any:
    """The value, converted to its field's type. Raises InvalidParameter."""
    field = FIELDS[name]
    kind = field.kind
    numbers = NUMBERS.get(kind)
    if numbers is not None:
        if kind == "integer" and type(value) is float and value.is_integer():
            value = int(value)  # some clients write 40.0
        if type(value) not in numbers:
            raise InvalidParameter(
                name, f"must be {'an integer' if kind == 'integer' else 'a number'}"
            )
        if not field.low <= value <= field.high:
            raise InvalidParameter(name, f"must be between {field.low:g} and {field.high:g}")
        if name == "seed" and not -1 <= value < RANDOM:
            value %= RANDOM  # clients draw from 64 bits; servers accept 32, and the largest is none
        return value
    if kind == "lora":
        return adapters.check(value)
    if kind == "boolean" and type(value) is not bool:
        raise InvalidParameter(name, "must be true or false")
    if kind == "string" and type(value) is not str:
        raise InvalidParameter(name, "must be a string")
    if kind == "strings" or (kind == "samplers" and type(value) is not str):  # or a letter for each
        if not (isinstance(value, list) and all(type(v) is str for v in value)):
            raise InvalidParameter(name, "must be a list of strings")
        if len(value) > MAX_STRINGS:
            raise InvalidParameter(
                name, f"has {len(value)} strings; at most {MAX_STRINGS} are allowed"
            )
    return value


def sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    """The checked sampling fields of a request body, and its `logit_bias`; null counts as absent.
    Raises InvalidParameter."""
    values = {}
    for name in filter(FIELDS.__contains__, body):
        if body[name] is not None:
            values[name] = check(name, body[name])
    if body.get("logit_bias"):
        values["logit_bias"] = logit_bias(body["logit_bias"])
    return values


def with_defaults(body: Mapping[str, Any], defaults: Mapping[str, float]) -> dict[str, Any]:
    """The checked values of these fields. Raises InvalidParameter."""
    return {
        name: check(name, default if body.get(name) is None else body[name])
        for name, default in defaults.items()
    }


def needed(name: str, value: Any) -> bool:
    """Whether the field changes the answer, so that a backend that lacks it cannot serve the
    request."""
    if name == "cache_prompt":
        return False
    field = FIELDS.get(name)
    return field is None or (field.lacking == "refused" and value not in field.neutral)


def left_out(sampling: Mapping[str, Any], lacks: frozenset[str]) -> list[str]:
    """Warnings about the fields that the backend lacks. Only hints get this far."""
    return [
        f"{name} is ignored: this model's backend does not support it"
        for name in sorted(lacks & sampling.keys())
        if FIELDS[name].lacking == "told" and sampling[name] not in FIELDS[name].neutral
    ]


MAX_BIASED_TEXTS = 256  # an old server is asked for the tokens of each
MAX_BIASED_TEXT = 256  # characters


def logit_bias(value: Any) -> list[list[Any]]:
    """OpenAI's object {token id: bias}, or server.cpp's list of pairs [id, bias], as pairs. A text
    instead of an id means each of its tokens; a bias of false forbids the token. Raises
    InvalidParameter."""
    if not isinstance(value, Mapping | list):
        raise InvalidParameter("logit_bias", "must map token ids to numbers")
    if len(value) > MAX_BIASES:
        raise InvalidParameter(
            "logit_bias", f"has {len(value)} entries; at most {MAX_BIASES} are allowed"
        )
    out: list[list[Any]] = []
    texts = 0
    for pair in value.items() if isinstance(value, Mapping) else value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InvalidParameter("logit_bias", "must contain pairs of a token id and a number")
        token, bias = pair
        if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 10:
            token = int(token)
        if type(token) is str:
            texts += 1
            if not 0 < len(token) <= MAX_BIASED_TEXT or texts > MAX_BIASED_TEXTS or "\0" in token:
                raise InvalidParameter(
                    "logit_bias",
                    f"may contain at most {MAX_BIASED_TEXTS} strings of 1 to {MAX_BIASED_TEXT}"
                    f" characters",
                )
        elif type(token) is not int or not 0 <= token <= INT32:
            raise InvalidParameter(
                "logit_bias", "has a key that is neither a token id nor a string"
            )
        if bias is not False and (type(bias) not in (int, float) or not -1e6 <= bias <= 1e6):
            raise InvalidParameter("logit_bias", "has a bias that is not a number")
        out.append([token, bias])
    return out
