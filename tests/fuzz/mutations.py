"""Changes valid JSON at random into what no client should send: structure, types, sizes, bytes.

Pure: the same generator of random numbers gives the same bytes.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
import random
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

LONGEST = 48 << 20  # bytes; a gateway takes 32 MiB


class Raw:
    """Text that is written into the JSON unchanged, which Python's encoder would not produce."""

    def __init__(self, text: str) -> None:
        self.text = text


class Pairs:
    """An object that may have duplicate keys."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def encoded(value: Any) -> str:
    """As JSON; what is not in JSON's grammar only where a `Raw` says so."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        value = Pairs(list(value.items()))
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(k)}:{encoded(v)}" for k, v in value.pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(encoded, value)) + "]"
    return json.dumps(value)


PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0\x90wS\xde"
    b"\0\0\0\x0cIDATx\x9cc\xf8\xcf\xc0\0\0\3\1\1\0\xc9\xfe\x92\xef\0\0\0\0IEND\xaeB`\x82"
).decode()
NUMBERS = [
    0, 1, -1, 2, 0.5, -0.5, 3, 7, 100, 255, 65536, 2**31 - 1, 2**31, -(2**31) - 1, 2**32,
    2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30, 1e308, -1e308, 1e-320, 1e16,
    Raw("1e999"), Raw("-1e999"), Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("-0"),
    Raw("9" * 5000), Raw("1" + "0" * 400), Raw("1.0"), Raw("1e2"), Raw("01"), Raw("0x10"),
    Raw("0." + "3" * 5000), Raw("1E+2"), Raw("+1"),
]  # fmt: skip
TEXTS = [
    "", " ", "\n", "\0", "a\0b", "\x7f", "\u2028", "\ufeff", "\U0001f600", "\u202eabc", "é",
    "e\u0301", "你好", "a" * 300, "a" * 5000, "ab " * 30_000, "\U0001f600" * 5000, "\\", '"', "'",
    "`", "%s%n", "{0}", "${x}", "{{ 7*7 }}", "{% for i in range(9) %}x{% endfor %}",
    "<script>alert(1)</script>", "../../../../etc/passwd", "/etc/passwd", "C:\\x",
    "file:///etc/passwd", "\r\nX-A: b", "http://127.0.0.1:9/", "http://169.254.169.254/", "null",
    "true", "0", "-1", "1e999", "NaN", "auto", "none", "required", "any", "default", "system",
    "user", "assistant", "tool", "text", "json", "json_object", "json_schema", "function",
    "2026-01-01", "<|im_start|>system\n", "</s>", "<think>", "<tool_call>",
    "data:image/png;base64," + PNG, "data:image/png;base64,xx", "data:,",
    "data:image/svg+xml;base64,PHN2Zy8+", PNG, 'root ::= "a"', "root ::= root",
    'root ::= "a"{9999}', "(a+)+$", "[a-z]{1,400}", "^(\\d{3}-)?\\w+$", "(?P<x>a)(?P=x)", "(",
    "' OR 1=1 --", "a AND", "NEAR(", '"', "*", "%", "_", "\\ud800", Raw('"\\ud800"'),
    Raw('"\\udc00\\ud800"'), Raw('"a\\ud83d"'), Raw('"\\u0000"'), Raw('"\\x41"'), Raw('"\t"'),
    Raw("'a'"),
]  # fmt: skip
SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
    {"$ref": "#"},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    {"$ref": "http://a/b"},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    {"type": "string", "pattern": "^(a|b)*c$"},
    {"enum": ["a", 1, None, [1], {"b": 2}]},
    {"const": None},
    True,
    False,
    {"type": "array", "minItems": 10**9},
    {"type": "string", "minLength": 10**9},
    {"type": "integer", "minimum": 10**40},
    {"not": {}},
    {"type": "number", "multipleOf": 0},
    {"type": ["string", "integer"]},
    {"type": "nothing"},
    {"type": "object", "patternProperties": {"(": {}}},
    {"format": "date-time", "type": "string"},
    {"allOf": [{"properties": {"a": {}}}] * 50, "type": "object"},
    {"$defs": 3},
    {"properties": []},
]


SHAPES: list[Any] = [
    *([], {}, [None], [[]], [{}], {"": None}, [0] * 3000, ["a"] * 20_000, [{}] * 3000),
    *([[]] * 30_000, {str(n): n for n in range(3000)}, [[1, 2], "a", {"b": None}]),
    {"a": {"b": [1, {"c": None}]}},
]


class Mutator:
    """`words` are field names, `others` valid bodies whose parts may be inserted anywhere."""

    def __init__(self, words: Sequence[str], others: Sequence[Any]) -> None:
        self._words = words
        self._parts: list[tuple[str, Any]] = []
        for other in others:
            for box, key in places(other):
                if isinstance(key, str):
                    self._parts.append((key, box[key]))
        self._by_name: dict[str, list[Any]] = {}
        for key, value in self._parts:
            self._by_name.setdefault(key, []).append(value)

    def odd(self, rng: random.Random) -> Any:
        """A value that is invalid for most fields."""
        how = rng.randrange(16)
        if how < 2:
            return rng.choice([None, True, False])
        if how < 6:
            return rng.choice(NUMBERS)
        if how < 10:
            return rng.choice(TEXTS)
        if how < 11:
            return copy.deepcopy(rng.choice(SCHEMAS))
        if how < 13:
            return copy.deepcopy(rng.choice(self._parts)[1]) if self._parts else None
        depth = rng.choice([20, 400, 1200, 30_000])
        deep = Raw("[" * depth + "0" + "]" * depth)
        deep_objects = Raw('{"a":' * depth + "0" + "}" * depth)
        shape = rng.choice([*SHAPES, {"type": rng.choice(self._words)}, deep, deep_objects])
        return copy.deepcopy(shape)

    def mutated(self, rng: random.Random, seed: Any) -> Any:
        """A copy of `seed` that is changed in some places."""
        value: Any = copy.deepcopy(seed)
        for _ in range(rng.choice([0, 0, 1, 1, 1, 1, 2, 2, 3, 5])):
            if rng.random() < 0.03:
                value = self._whole(rng, value)
            if isinstance(value, dict) and (not value or rng.random() < 0.2):
                self._add(rng, value)
                continue
            where = places(value)
            if not where:
                return self.odd(rng)
            box, key = where[min(int(rng.expovariate(3 / len(where))), len(where) - 1)]
            self._change(rng, box, key)
        return value

    def _whole(self, rng: random.Random, value: Any) -> Any:
        how = rng.randrange(4)
        if how == 0:
            return [value]
        if how == 1:
            return {rng.choice(self._words): value}
        if how == 2:
            return encoded(value)
        return self.odd(rng)

    def _add(self, rng: random.Random, box: dict[str, Any]) -> None:
        if self._parts and rng.random() < 0.5:
            name, value = rng.choice(self._parts)
            box[name] = copy.deepcopy(value)
        else:
            odd = ["", "__proto__", "__class__", "a" * 3000, "\ud800", "$ref"]
            box[rng.choice([*self._words, *odd])] = self.odd(rng)

    def _change(self, rng: random.Random, box: Any, key: Any) -> None:
        value = box[key]
        how = rng.randrange(12)
        if how < 4:
            box[key] = self.odd(rng)
        elif how == 4:
            del box[key]
        elif how == 5 and isinstance(key, str):
            if rng.random() < 0.3:
                box[key] = Pairs([(key, value), (key, self.odd(rng))])
            other = rng.choice(self._words)
            box[other] = box.pop(key)
        elif how == 6:
            box[key] = rng.choice([[value], {"a": value}, encoded(value), [value, value]])
        elif how == 7 and isinstance(key, str) and key in self._by_name:
            box[key] = copy.deepcopy(rng.choice(self._by_name[key]))
        elif isinstance(value, list):
            box[key] = self._list(rng, value)
        elif isinstance(value, str):
            box[key] = self._text(rng, value)
        elif isinstance(value, bool) or value is None:
            box[key] = rng.choice([not value, None, str(value), int(bool(value))])
        elif isinstance(value, int | float):
            box[key] = rng.choice(
                [-value, value + 1, value * 1000, str(value), value / 7, *NUMBERS]
            )
        elif isinstance(value, dict):
            how = rng.randrange(3)
            if how == 0 and value:
                name = rng.choice(list(value))
                box[key] = Pairs([*value.items(), (name, self.odd(rng)), (name, value[name])])
            elif how == 1:
                self._add(rng, value)
            else:
                box[key] = [[name, one] for name, one in value.items()]

    def _times(self, many: int, text: str) -> int:
        """So many times, or twice if that has too many bytes for any body."""
        return many if len(text) * many < LONGEST else 2

    def _list(self, rng: random.Random, value: list[Any]) -> list[Any]:
        how = rng.randrange(5)
        if how == 0:
            return []
        if how == 1:
            return value * self._times(rng.choice([2, 3, 50, 2000]), encoded(value))
        if how == 2:
            return [*value, self.odd(rng)]
        if how == 3:
            return rng.sample(value, len(value))
        return [self.odd(rng), *value]

    def _text(self, rng: random.Random, value: str) -> str:
        at = rng.randrange(len(value) + 1)
        how = rng.randrange(5)
        if how == 0:
            return value[:at]
        if how == 1:
            return value * self._times(rng.choice([2, 100, 3000]), value)
        if how == 2:
            odd = rng.choice(TEXTS)
            return value[:at] + (odd if isinstance(odd, str) else "\ud800") + value[at:]
        if how == 3:
            odd = chr(rng.choice([0, 9, 10, 13, 127, 0xD800, 0xFFFF, 0x10FFFF]))
            return value[:at] + odd + value[at + 1 :]
        return value.upper()


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a value, the outermost first."""
    found: list[tuple[Any, Any]] = []
    todo = deque([value])
    while todo:
        box = todo.popleft()
        keys = (
            list(box) if isinstance(box, dict) else range(len(box)) if isinstance(box, list) else ()
        )
        for key in keys:
            found.append((box, key))
            todo.append(box[key])
    return found


def broken(rng: random.Random, data: bytes) -> bytes:
    """The JSON's bytes, damaged."""
    at = rng.randrange(len(data) + 1)
    noise = bytes(rng.randrange(256) for _ in range(200))
    marks = [b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\0", b",", b"}", b"]", b'"', b"/*x*/"]
    changes: list[Callable[[], bytes]] = [
        lambda: rng.choice([b"", b"null", b"[]", b"{}", b'"x"', b"0", noise]),
        lambda: data[:at],
        lambda: data + data,
        lambda: data + b"\0",
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data.decode("utf-8", "replace").encode("utf-16"),
        lambda: gzip.compress(data, mtime=0),
        lambda: zlib.compress(data),
        lambda: data[:at] + noise[: rng.choice([1, 1, 4])] + data[at + 1 :],
        lambda: data[:at] + rng.choice(marks) + data[at:],
        lambda: data[:at] + data[at + rng.choice([1, 2, 10]) :],
        lambda: b"[" * rng.choice([1000, 100_000, 2_000_000]),
        lambda: b'{"a":' * rng.choice([1000, 100_000]),
        lambda: b'"' + b"a" * 3_000_000 + b'"',
        lambda: b"[" + b"{}," * 500_000 + b"{}]",
        lambda: b" " * 100_000 + data,
        lambda: b"a=b&c=d&" + b"e=f&" * 5000,
        lambda: (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + data + b"\r\n--x--\r\n"
        ),
    ]
    return rng.choice(changes)()
