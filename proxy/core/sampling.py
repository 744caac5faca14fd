"""The table of sampler fields: the names, types and bounds of server.cpp's /completion.

A 2023 server aborts on a field of the wrong type and reads past its buffers on some values, so a
value that is not in this table, or not as the table says, never goes upstream. `since` tells which
generations know a name: 2023 for every server.cpp, PowerInfer's included; 2026 for today's
llama-server alone. Bounds are those both accept; names are llama.cpp's own.

Clients of llama.cpp send all that its server knows, most of it as it is anyway. So a backend that
lacks a field passes over a value with which nothing changes (`neutral`); what only refines another
field, or a server's own ways, it passes over silently; a hint is left out and told as a warning;
anything else is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from .invalid import Invalid

Kind = Literal["number", "integer", "boolean", "string", "strings", "samplers"]
Lacking = Literal["refused", "told", "silent"]
NUMBERS: Mapping[str, tuple[type, ...]] = {"number": (int, float), "integer": (int,)}
INT32 = 2**31 - 1
MAX_BIASES = 16_384  # entries of logit_bias
MAX_STRINGS = 256  # of a list of samplers or sequence breakers
RANDOM = 2**32 - 1  # to a server "any seed", as -1 is


class Field(Struct, frozen=True):
    kind: Kind
    low: float = -math.inf
    high: float = math.inf
    since: int = 2023
    neutral: tuple[Any, ...] = ()
    lacking: Lacking = "refused"


FIELDS: Mapping[str, Field] = {
    "temperature": Field("number", 0, 100),
    "top_k": Field("integer", 0, INT32),
    "top_p": Field("number", 0, 1),
    "min_p": Field("number", 0, 1, neutral=(0,), lacking="told"),
    "typical_p": Field("number", 0, 1, neutral=(1,)),
    "tfs_z": Field("number", 0, 1, neutral=(1,)),
    "repeat_penalty": Field("number", 0, 100),
    "repeat_last_n": Field("integer", -1, INT32),
    "penalize_nl": Field("boolean", neutral=(True,)),
    "presence_penalty": Field("number", -100, 100, neutral=(0,)),
    "frequency_penalty": Field("number", -100, 100, neutral=(0,)),
    "mirostat": Field("integer", 0, 2, neutral=(0,)),
    "mirostat_tau": Field("number", 0, 1000, lacking="silent"),
    "mirostat_eta": Field("number", 0, 1000, lacking="silent"),
    "seed": Field("integer", -(2**63), 2**63 - 1, neutral=(-1,)),
    "n_keep": Field("integer", -1, INT32, lacking="silent"),
    "ignore_eos": Field("boolean", neutral=(False,)),
    "grammar": Field("string", neutral=("",)),
    "dynatemp_range": Field("number", 0, 100, since=2026, neutral=(0,)),
    "dynatemp_exponent": Field("number", -100, 100, since=2026, lacking="silent"),
    "top_n_sigma": Field("number", -1, 1000, since=2026, neutral=(-1, 0)),
    "xtc_probability": Field("number", 0, 1, since=2026, neutral=(0,)),
    "xtc_threshold": Field("number", 0, 1, since=2026, lacking="silent"),
    "dry_multiplier": Field("number", 0, 1000, since=2026, neutral=(0,)),
    "dry_base": Field("number", 0, 1000, since=2026, lacking="silent"),
    "dry_allowed_length": Field("integer", 0, INT32, since=2026, lacking="silent"),
    "dry_penalty_last_n": Field("integer", -1, INT32, since=2026, lacking="silent"),
    "dry_sequence_breakers": Field("strings", since=2026, lacking="silent"),
    "adaptive_target": Field("number", -1, 1, since=2026, neutral=(-1,)),
    "adaptive_decay": Field("number", 0, 0.99, since=2026, lacking="silent"),
    "min_keep": Field("integer", 0, INT32, since=2026, lacking="silent"),
    "samplers": Field("samplers", since=2026, lacking="told"),
    "n_discard": Field("integer", 0, INT32, since=2026, lacking="silent"),
    "n_indent": Field("integer", 0, INT32, since=2026, neutral=(0,), lacking="told"),
    "n_cache_reuse": Field("integer", 0, INT32, since=2026, lacking="silent"),
    "backend_sampling": Field("boolean", since=2026, lacking="silent"),
    "t_max_predict_ms": Field("integer", -1, INT32, since=2026, neutral=(-1, 0), lacking="told"),
}

LATER = frozenset(name for name, field in FIELDS.items() if field.since > 2023)
WINDOWS = ("repeat_last_n", "dry_penalty_last_n")
OLD_REPEAT_LAST_N = 64  # the 2023 sampler remembers 64 tokens and reads before them for more


def check(name: str, value: Any) -> Any:
    """The value, as its field's type. Raises Invalid naming the parameter."""
    field = FIELDS[name]
    kind = field.kind
    numbers = NUMBERS.get(kind)
    if numbers is not None:
        if kind == "integer" and type(value) is float and value.is_integer():
            value = int(value)  # JSON of some clients writes 40.0
        if type(value) not in numbers:
            raise Invalid(name, f"must be {'an integer' if kind == 'integer' else 'a number'}")
        if not field.low <= value <= field.high:
            raise Invalid(name, f"must be from {field.low:g} to {field.high:g}")
        if name == "seed" and not -1 <= value < RANDOM:
            value %= RANDOM  # clients draw from 64 bits, servers take 32 and the largest is none
        return value
    if kind == "boolean":
        if type(value) is bool:
            return value
        raise Invalid(name, "must be true or false")
    if kind == "string":
        if type(value) is str:
            return value
        raise Invalid(name, "must be a string")
    if kind == "samplers" and type(value) is str:
        return value  # a letter for each
    if isinstance(value, list) and all(type(v) is str for v in value):
        if len(value) > MAX_STRINGS:
            raise Invalid(name, f"has {len(value)} strings, {MAX_STRINGS} may be")
        return value
    raise Invalid(name, "must be a list of strings")


def sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler fields among those of a body, checked; null counts as absent."""
    return {
        name: check(name, body[name])
        for name in filter(FIELDS.__contains__, body)
        if body[name] is not None
    }


def needed(name: str, value: Any) -> bool:
    """Whether an answer without this field, where a backend lacks it, would not be the one that
    was asked for."""
    if name == "cache_prompt":
        return False
    field = FIELDS.get(name)
    return field is None or (field.lacking == "refused" and value not in field.neutral)


def left_out(asked: Mapping[str, Any], lacks: frozenset[str]) -> list[str]:
    """What to tell a client whose backend lacks these fields; others than hints are refused."""
    return [
        f"{name} is left out: the backend of this model does not know it"
        for name in sorted(lacks & asked.keys())
        if FIELDS[name].lacking == "told" and asked[name] not in FIELDS[name].neutral
    ]


MAX_BIASED_TEXTS = 256  # an old server is asked for the tokens of each
MAX_BIASED_TEXT = 256  # characters


def logit_bias(value: Any) -> list[list[Any]]:
    """OpenAI's object {token id: bias}, or server.cpp's list of pairs [id, bias], as pairs. In
    place of an id may stand a text, which means each of its tokens; a bias of false forbids the
    token. Raises Invalid."""
    if isinstance(value, Mapping | list) and len(value) > MAX_BIASES:
        raise Invalid("logit_bias", f"has {len(value)} entries, {MAX_BIASES} may be")
    if isinstance(value, Mapping):
        pairs: list[Any] = list(map(list, value.items()))
    elif isinstance(value, list):
        pairs = value
    else:
        raise Invalid("logit_bias", "must be an object of token ids and numbers")
    out: list[list[Any]] = []
    texts = 0
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Invalid("logit_bias", "must hold pairs of a token id and a number")
        token, bias = pair
        if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 10:
            token = int(token)
        if type(token) is str:
            texts += 1
            if not 0 < len(token) <= MAX_BIASED_TEXT or texts > MAX_BIASED_TEXTS or "\0" in token:
                raise Invalid(
                    "logit_bias",
                    f"may hold {MAX_BIASED_TEXTS} texts of 1 to {MAX_BIASED_TEXT} characters",
                )
        elif type(token) is not int or not 0 <= token <= INT32:
            raise Invalid("logit_bias", "has a key that is neither a token id nor a text")
        if bias is not False and (type(bias) not in (int, float) or not -1e6 <= bias <= 1e6):
            raise Invalid("logit_bias", "has a bias that is no number")
        out.append([token, bias])
    return out
