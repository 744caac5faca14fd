"""Generated schemas, their instances, and texts of a grammar, from one source of choices: a `Pick`
gives an integer below its argument. Instances are made from the schema alone, in the canonical form
that grammars promise to accept: members in the schema's order, and additional names that differ
from them in a character which is written as it is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from proxy.gbnf.values import (
    MAX_CODE_POINT,
    Alternatives,
    CharClass,
    Element,
    Grammar,
    Group,
    Literal,
    Repeat,
    RuleRef,
)

Pick = Callable[[int], int]

# With matching texts.
PATTERNS = {
    "^[a-z]+$": ["a", "slotproxy"],
    r"^\d{3}-\d{4}$": ["555-0199"],
    "^(red|green|dark (blue|grey))$": ["red", "dark grey"],
    "o": ["o", "foo", "中o文"],
    r'^"[^"]*"$': ['""', '"中 文"', '"a\\b"'],
    r"^\S+@\S+\.\w{2,4}$": ["a@b.cn", "é@x.y.zz"],
    r"^[\w.-]{2,5}\t?$": ["a-", "x.y_z\t"],
    r"^(?:a|b)*c?": ["", "abab", "zzz"],
    r"end\.$": ["the end.", "end."],
    r"^[^\x00-\x1f]{1,3}$": ["abc", "é中"],
    "^.*$": ["", "a b"],
    r"^\W\D\S$": ["-a中", "!!!"],
}
FORMATS = {
    "date": ["2024-02-29", "1999-12-31", "0001-01-01"],
    "time": ["23:59:59Z", "00:00:00.125+05:30"],
    "date-time": ["2024-02-29T23:59:59Z", "1970-01-01T00:00:00.5-08:00"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000", "AAAAAAAA-bbbb-CCCC-dddd-EEEEEEEEEEEE"],
    "email": ["a@b", "first.last+tag@sub.example.org"],
    "ipv4": ["0.0.0.0", "192.168.1.255"],
}
NAMES = ["a", "ab", "b", "city name", 'q"\\', "名前", "x-1", "value"]
STRINGS = ["", "a", 'ab\n"c"', "中文", "emoji 😀", "tab\t\\", "null", "\x7f\x01"]
SCALARS: list[Any] = [None, True, False, 0, 1, -7, 2.5, 1e22, *STRINGS]


def one_of(pick: Pick, of: Any) -> Any:
    return of[pick(len(of))]


def schema(pick: Pick, depth: int = 2) -> dict[str, Any]:
    """A schema with all definitions that it refers to."""
    node = _schema(pick, depth)
    return {**node, "$defs": _DEFINITIONS} if "$ref" in json.dumps(node) else node


_DEFINITIONS: dict[str, Any] = {
    "tree": {
        "type": "object",
        "properties": {
            "value": {"type": "integer"},
            "left": {"$ref": "#/$defs/tree"},
            "right": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
        },
        "required": ["value"],
        "additionalProperties": False,
    },
    "a/b~c": {"type": "array", "items": {"$ref": "#/$defs/a~1b~0c"}, "maxItems": 3},
}


def _schema(pick: Pick, depth: int) -> dict[str, Any]:
    makers = [_string, _integer, _number, _listed, _plain]
    if depth > 0:
        makers += [_object, _array, _tuple, _any_of, _tagged, _all_of, _reference]
    found: dict[str, Any] = one_of(pick, makers)(pick, depth)
    return found


def _plain(pick: Pick, depth: int) -> dict[str, Any]:
    kinds = ["null", "boolean", ["string", "null"], ["integer", "boolean"], ["number", "string"]]
    return {"type": one_of(pick, kinds), "description": "plain"}


def _string(pick: Pick, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string"}
    what = pick(4)
    if what == 0:
        found["pattern"] = one_of(pick, list(PATTERNS))
    elif what == 1:
        found["format"] = one_of(pick, list(FORMATS))
    elif what == 2:
        found["minLength"] = pick(4)
    if what >= 2 and pick(2):
        found["maxLength"] = found.get("minLength", 0) + one_of(pick, [0, 1, 5, 120, 345])
    return found


def _integer(pick: Pick, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "integer"}
    low = one_of(pick, [0, 1, -5, 17, -1234, 99, 10**12]) + pick(20)
    if pick(2):
        found[one_of(pick, ["minimum", "exclusiveMinimum"])] = low
    if pick(2):
        found[one_of(pick, ["maximum", "exclusiveMaximum"])] = low + 2 + pick(2000)
    if not pick(3):
        found["multipleOf"] = one_of(pick, [1, 2, 3, 5, 2.0])
        found = {key: value for key, value in found.items() if not key.startswith("ex")}
    return found


def _number(pick: Pick, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "number"}
    low = one_of(pick, [0, 0.5, -1.25, 3, -100, 0.001, -0.0])
    if pick(2):
        found[one_of(pick, ["minimum", "exclusiveMinimum"])] = low
    if pick(2):
        high = low + one_of(pick, [1, 0.5, 0.25, 100, 7.125])
        found[one_of(pick, ["maximum", "exclusiveMaximum"])] = high
    return found


def _listed(pick: Pick, depth: int) -> dict[str, Any]:
    if pick(2):
        values = [*SCALARS, [], [1, {"a": None}], {}, {"k": [True]}]
        return {"const": one_of(pick, values)}
    return {"enum": [SCALARS[pick(len(SCALARS))] for _ in range(1 + pick(5))]}


def _names(pick: Pick) -> list[str]:
    start = pick(len(NAMES))
    return (NAMES[start:] + NAMES[:start])[: pick(5)]


def _object(pick: Pick, depth: int) -> dict[str, Any]:
    names = _names(pick)
    found: dict[str, Any] = {
        "type": "object",
        "properties": {name: _schema(pick, depth - 1) for name in names},
        "required": [name for name in names if pick(2)],
    }
    others = pick(5)
    if others == 0:
        found["additionalProperties"] = True
    elif others == 1:
        found["additionalProperties"] = _schema(pick, 0)
    elif others == 2:
        found["additionalProperties"] = False
    if not pick(4):
        low = len(found["required"]) + pick(2)
        if low <= len(names):
            found["minProperties"] = low
            found["maxProperties"] = low + pick(3)
    return found


def _array(pick: Pick, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "array", "items": _schema(pick, depth - 1)}
    if pick(2):
        found["minItems"] = pick(4)
    if pick(2):
        found["maxItems"] = found.get("minItems", 0) + one_of(pick, [0, 1, 3, 130])
    return found


def _tuple(pick: Pick, depth: int) -> dict[str, Any]:
    places = [_schema(pick, depth - 1) for _ in range(1 + pick(3))]
    found: dict[str, Any] = {"type": "array", "prefixItems": places}
    if pick(2):
        found["items"] = one_of(pick, [False, True, {"type": "null"}])
    if pick(2):
        found["minItems"] = pick(len(places) + 1)
    return found


def _any_of(pick: Pick, depth: int) -> dict[str, Any]:
    return {"anyOf": [_schema(pick, depth - 1) for _ in range(1 + pick(3))]}


def _tagged(pick: Pick, depth: int) -> dict[str, Any]:
    branches = []
    for tag in ["one", "two", "three"][: 1 + pick(3)]:
        branch = _object(pick, depth - 1)
        branch.pop("minProperties", None)
        branch.pop("maxProperties", None)
        branch["properties"] = {"kind": {"const": tag}, **branch["properties"]}
        branch["required"] = ["kind", *branch["required"]]
        branches.append(branch)
    return {"oneOf": [*branches, {"type": "null"}]}


def _all_of(pick: Pick, depth: int) -> dict[str, Any]:
    if pick(2):
        low = pick(100)
        parts = [{"type": "integer", "minimum": low}, {"maximum": low + pick(50)}]
        return {"allOf": parts, "type": ["integer", "string"]}
    parts = [
        {"type": "object", "properties": {name: _schema(pick, depth - 1)}} for name in _names(pick)
    ]
    required = [next(iter(part["properties"])) for part in parts if pick(2)]
    return {"allOf": [*parts, {"type": "object", "properties": {}}], "required": required}


def _reference(pick: Pick, depth: int) -> dict[str, Any]:
    return {"$ref": one_of(pick, ["#/$defs/tree", "#/$defs/a~1b~0c"])}


def instance(pick: Pick, node: Any, depth: int = 4) -> Any:
    """A value that should satisfy a schema of `schema`; the caller checks that it does."""
    if "$ref" in node:
        name = "tree" if node["$ref"].endswith("tree") else "a/b~c"
        return instance(pick, _DEFINITIONS[name], depth - 1)
    for word in ("anyOf", "oneOf"):
        if word in node:
            return instance(pick, one_of(pick, node[word]), depth)
    if "const" in node:
        return node["const"]
    if "enum" in node:
        return one_of(pick, node["enum"])
    if "allOf" in node and "maximum" in node["allOf"][-1]:
        node = node["allOf"][0] | node["allOf"][1]
    elif "allOf" in node:
        properties = {n: s for part in node["allOf"] for n, s in part["properties"].items()}
        node = {"type": "object", "properties": properties, "required": node["required"]}
    kind = node.get("type", "integer")
    kind = kind if isinstance(kind, str) else one_of(pick, kind)
    return _INSTANCES[kind](pick, node, depth)


def _a_string(pick: Pick, node: Any, depth: int) -> str:
    if "pattern" in node:
        return str(one_of(pick, PATTERNS[node["pattern"]]))
    if "format" in node:
        return str(one_of(pick, FORMATS[node["format"]]))
    low = node.get("minLength", 0)
    length = low + pick(node.get("maxLength", low + 10) - low + 1)
    return "".join(one_of(pick, 'ab"\\\n中😀 /') for _ in range(length))


def _bounds(node: Any, step: Any) -> tuple[Any, Any]:
    low, high = node.get("minimum"), node.get("maximum")
    low = node["exclusiveMinimum"] + step if "exclusiveMinimum" in node else low
    high = node["exclusiveMaximum"] - step if "exclusiveMaximum" in node else high
    if low is None:
        low = -50 if high is None else high - 50
    return low, low + 100 if high is None else high


def _an_integer(pick: Pick, node: Any, depth: int) -> int:
    low, high = _bounds(node, 1)
    step = int(node.get("multipleOf", 1))
    return int((low + pick(max(1, high - low + 1))) // step * step)


def _a_number(pick: Pick, node: Any, depth: int) -> float:
    if node.keys() == {"type"} and not pick(4):
        return float(one_of(pick, [1e22, -2.5e-9, 0.1 + 0.2, 1e15, -0.0]))
    low, high = _bounds(node, 0.001)
    value = round(low + (high - low) * pick(1001) / 1000, 3)
    return int(value) if value == int(value) and pick(2) else value


def _an_object(pick: Pick, node: Any, depth: int) -> dict[str, Any]:
    value = {
        name: instance(pick, inside, depth - 1)
        for name, inside in node["properties"].items()
        if name in node["required"] or (depth > 0 and pick(2))
    }
    extra = node.get("additionalProperties", False)
    if extra is not False and pick(2):
        inside = one_of(pick, SCALARS) if extra is True else instance(pick, extra, depth - 1)
        value[one_of(pick, ["extra", "", "abc\t"])] = inside
    return value


def _an_array(pick: Pick, node: Any, depth: int) -> list[Any]:
    places, items = node.get("prefixItems", []), node.get("items", False)
    low = node.get("minItems", 0)
    most = low if depth < 0 else low + 3
    most = min(most, node.get("maxItems", most), most if items else len(places))
    schemas = [*places, *[{"enum": SCALARS} if items is True else items] * most]
    count = low + pick(max(0, most - low) + 1)
    return [instance(pick, schemas[at], depth - 1) for at in range(count)]


_INSTANCES: dict[str, Callable[[Pick, Any, int], Any]] = {
    "null": lambda pick, node, depth: None,
    "boolean": lambda pick, node, depth: bool(pick(2)),
    "integer": _an_integer,
    "number": _a_number,
    "string": _a_string,
    "object": _an_object,
    "array": _an_array,
}


class Sampler:
    """Random texts of a grammar. After some rules it takes the shortest way out."""

    def __init__(self, grammar: Grammar, source: random.Random) -> None:
        self.grammar = grammar
        self.source = source
        self.left = 0
        # How deep the shallowest derivation of each rule is.
        self.heights: dict[str, float] = dict.fromkeys(grammar.rules, float("inf"))
        changed = True
        while changed:
            changed = False
            for name, alternatives in grammar.rules.items():
                height = 1 + min(self.height((sequence,)) for sequence in alternatives)
                if height < self.heights[name]:
                    self.heights[name] = height
                    changed = True

    def height(self, alternatives: Alternatives) -> float:
        return min(
            max((self._height(element) for element in sequence), default=0)
            for sequence in alternatives
        )

    def _height(self, element: Element) -> float:
        if isinstance(element, RuleRef):
            return self.heights[element.name]
        if isinstance(element, Group):
            return self.height(element.alternatives)
        if isinstance(element, Repeat):
            return self._height(element.element) if element.min else 0
        return 0

    def text(self, budget: int = 200) -> str:
        self.left = budget
        out: list[str] = []
        self._write(self.grammar.rules["root"], out)
        return "".join(out)

    def _write(self, alternatives: Alternatives, out: list[str]) -> None:
        self.left -= 1
        if self.left < 0:
            least = min(self.height((sequence,)) for sequence in alternatives)
            alternatives = tuple(one for one in alternatives if self.height((one,)) == least)
        for element in self.source.choice(alternatives):
            self._element(element, out)

    def _element(self, element: Element, out: list[str]) -> None:
        if isinstance(element, Literal):
            out.append(element.text)
        elif isinstance(element, RuleRef):
            self._write(self.grammar.rules[element.name], out)
        elif isinstance(element, Group):
            self._write(element.alternatives, out)
        elif isinstance(element, Repeat):
            times = element.min
            while self.left > 0 and (element.max is None or times < element.max):
                if self.source.random() < 0.3:
                    break
                times += 1
                self.left -= 1
            for _ in range(times):
                self._element(element.element, out)
        else:
            out.append(self._char(element))

    def _char(self, element: CharClass) -> str:
        ranges = ((0x20, 0x7E), (0xA1, 0xFF), (0x4E00, 0x4EFF), (0x1F600, 0x1F64F))
        if not element.negated:
            low, high = self.source.choice(element.ranges)
            high = min(high, low + 500) if self.source.random() < 0.8 else high
            code = self.source.randint(low, min(high, MAX_CODE_POINT))
            return chr(code) if not 0xD800 <= code <= 0xDFFF else chr(low)
        while True:
            code = self.source.randint(*self.source.choice(ranges))
            if not any(low <= code <= high for low, high in element.ranges):
                return chr(code)


def random_grammar(pick: Pick) -> Grammar:
    """A grammar whose rules refer to later rules only."""
    names = ["root", "a", "b-2", "X"][: 1 + pick(4)]
    rules = {}
    for at, name in enumerate(names):
        later = names[at + 1 :]
        rules[name] = _alternatives(pick, later, 3)
    return Grammar(rules)


def _alternatives(pick: Pick, names: list[str], depth: int) -> Alternatives:
    return tuple(
        tuple(_element(pick, names, depth) for _ in range(pick(4))) for _ in range(1 + pick(3))
    )


def _element(pick: Pick, names: list[str], depth: int) -> Element:
    kind = pick(6 if depth else 3)
    if kind == 0 or (kind == 1 and not names):
        return Literal(
            "".join(one_of(pick, 'ab"\\\n\t[]^-中\u2028😀\x7f') for _ in range(1 + pick(3)))
        )
    if kind == 1:
        return RuleRef(one_of(pick, names))
    if kind == 2:
        ranges = tuple(
            (low, low + pick(5)) for low in (one_of(pick, [0x20, 0x2B, 0x5B, 0x61, 0x4E00]),) * 2
        )
        return CharClass(ranges, negated=pick(3) == 0)
    if kind == 3:
        return Group(_alternatives(pick, names, depth - 1))
    low = pick(3)
    inner = _element(pick, names, depth - 1)
    while isinstance(inner, Repeat):
        inner = inner.element
    return Repeat(inner, low, one_of(pick, [None, low + pick(3) or 1]))
