"""YAML as plain values: tables, lists, texts, numbers, true, false and nothing.

Only the core types of YAML 1.2 are read, as programs in Go read them: `on`, `12:30` and dates are
texts. The number of values is bounded after aliases and merge keys are filled in, so a small file
cannot grow. Nothing is constructed but these values. Raises ValueError.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_SIZE = 524_288  # characters of a file
MAX_VALUES = 100_000  # values in it, with aliases filled in
MAX_DEPTH = 64  # tables and lists inside each other

_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]{1,18}|0x[0-9a-fA-F]{1,15}|0o[0-7]{1,20}", list("-+0123456789")),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?", list("-+.0123456789")),
    "merge": (r"<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    """Tells the types of plain texts; it constructs nothing."""


_Loader.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


def parse(text: str) -> Any:
    """The value of a document, None for an empty one."""
    if len(text) > MAX_SIZE:
        raise ValueError(f"longer than {MAX_SIZE} characters")
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{place}{error.problem or error.context}") from None
    except yaml.YAMLError:
        raise ValueError("contains characters that YAML does not allow") from None
    except RecursionError:
        raise ValueError("too many lists inside each other") from None
    return _Reader().value(node, 0) if node is not None else None


class _Reader:
    def __init__(self) -> None:
        self._left = MAX_VALUES

    def value(self, node: yaml.Node, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"more than {MAX_VALUES} values, with aliases filled in")
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} tables or lists inside each other")
        if isinstance(node, yaml.MappingNode):
            return self._table(node, depth + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        return _scalar(node)

    def _table(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {key.start_mark.line + 1}: expected a name, not a list")
            value = self.value(item, depth)
            if key.tag == _TAG + "merge":
                for table in value if isinstance(value, list) else [value]:
                    if not isinstance(table, dict):
                        raise ValueError(f"line {key.start_mark.line + 1}: << needs a table")
                    merged = {**table, **merged}  # the first one counts
            elif key.value in own:
                raise ValueError(f"line {key.start_mark.line + 1}: {key.value!r} is there twice")
            else:
                own[key.value] = value
        return {**merged, **own}


def _scalar(node: yaml.Node) -> Any:
    kind = node.tag.removeprefix(_TAG)
    text: str = node.value
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "str":
        return text
    try:
        if kind == "int":
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        if kind == "float":
            return float(text)
    except ValueError:
        pass
    raise ValueError(f"line {node.start_mark.line + 1}: {text[:100]!r} is not a value")
