"""OpenAI's vector stores: parses requests.

`rewrite_query` has no effect: queries are searched as they are, and the answer repeats them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Mapping
from typing import Any

from ...errors import InvalidParameter
from .. import schema_fields as doc
from ..fields import Body, entry, filled, flag, integer, items, mapping, strings, text
from ..schema_fields import Schema

MOST_RESULTS, RESULTS = 50, 10
MOST_FILES = 2000  # in a batch
MOST_QUERIES = 16
MOST_PAIRS, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512  # in metadata and attributes
LONGEST_NAME = 256
SOONEST, LATEST = 3600, 2_592_000  # seconds until a file expires
TOKENS, OVERLAP = 800, 400  # of a chunk, by default
STATUSES = ("in_progress", "completed", "failed", "cancelled")


Attachment = dict[str, Any]
"""A file to add to a vector store, as arguments of `VectorStores.attach`."""


def parse_create(body: Body) -> tuple[dict[str, Any], list[Attachment]]:
    """The arguments of `VectorStores.create`, and the files to attach."""
    chunking = _chunking(body, "")
    files = [
        {"file_id": name, "attributes": {}, **chunking}
        for name in strings(body, "file_ids", most=MOST_FILES)
    ]
    new = {
        "name": _name(body),
        "description": text(body, "description")[:LONGEST_VALUE],
        "metadata": metadata(body) or {},
        "lasts": _lasts(body),
    }
    return new, files


def parse_update(body: Body) -> dict[str, Any]:
    """The arguments of `VectorStores.change`; `lasts` 0 removes the expiry."""
    lasts = _lasts(body)
    if lasts is None and "expires_after" in body:
        lasts = 0
    name = None if body.get("name") is None else _name(body)
    return {"name": name, "metadata": metadata(body), "lasts": lasts}


def parse_attach(body: Body, at: str = "") -> Attachment:
    file_id = filled(body, "file_id", at)
    return {"file_id": file_id, "attributes": attributes(body, at), **_chunking(body, at)}


def parse_batch(body: Body) -> list[Attachment]:
    """Files of a batch. One that is listed twice is attached once, with its last entry."""
    files = items(body, "files")
    ids = strings(body, "file_ids", most=MOST_FILES)
    if bool(files) is bool(ids):
        raise InvalidParameter("file_ids", "is required unless files is set")
    if len(files) > MOST_FILES:
        raise InvalidParameter("files", f"may contain at most {MOST_FILES} files")
    if ids:
        shared = {"attributes": attributes(body), **_chunking(body, "")}
        return [{"file_id": file_id, **shared} for file_id in ids]
    own = [parse_attach(entry(file, f"files[{i}]"), f"files[{i}].") for i, file in enumerate(files)]
    return list({file["file_id"]: file for file in own}.values())


def parse_search(body: Body) -> dict[str, Any]:
    """The arguments of `VectorStores.search`. `rank` permits reranking."""
    query = body.get("query")
    queries = [query] if type(query) is str else query
    if not isinstance(queries, list) or not all(type(text) is str and text for text in queries):
        raise InvalidParameter("query", "must be a string or a list of strings")
    if not 0 < len(queries) <= MOST_QUERIES:
        raise InvalidParameter("query", f"must contain 1 to {MOST_QUERIES} strings")
    flag(body, "rewrite_query")
    return {
        "queries": queries,
        "wanted": parse_filters(body.get("filters")),
        "most": integer(body, "max_num_results", 1, MOST_RESULTS) or RESULTS,
        "threshold": threshold(body),
        "rank": text(mapping(body, "ranking_options"), "ranker", at="ranking_options.") != "none",
    }


def threshold(body: Body, at: str = "") -> float:
    """The least score of a hit, from 0 to 1."""
    value = mapping(body, "ranking_options", at).get("score_threshold") or 0.0
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise InvalidParameter(at + "ranking_options.score_threshold", "must be from 0 to 1")
    return float(value)


def attributes(body: Body, at: str = "") -> dict[str, Any]:
    return _pairs(body, "attributes", at, _PLAIN, "a string, number or boolean")


def metadata(body: Body) -> dict[str, str] | None:
    if body.get("metadata") is None:
        return None
    return _pairs(body, "metadata", "", (str,), "a string")


def _pairs(body: Body, field: str, at: str, kinds: Container[type], what: str) -> dict[str, Any]:
    pairs = mapping(body, field, at)
    at += field
    if len(pairs) > MOST_PAIRS:
        raise InvalidParameter(at, f"may contain at most {MOST_PAIRS} pairs")
    for key, value in pairs.items():
        if len(key) > LONGEST_KEY:
            raise InvalidParameter(at, f"has a key longer than {LONGEST_KEY} characters")
        if type(value) not in kinds:
            raise InvalidParameter(f"{at}.{key}", f"must be {what}")
        if type(value) is str and len(value) > LONGEST_VALUE:
            raise InvalidParameter(f"{at}.{key}", f"may be at most {LONGEST_VALUE} characters long")
    return dict(pairs)


def _name(body: Body) -> str:
    name = text(body, "name")
    if len(name) > LONGEST_NAME:
        raise InvalidParameter("name", f"may be at most {LONGEST_NAME} characters long")
    return name


def _lasts(body: Body) -> int | None:
    expiry = mapping(body, "expires_after")
    if not expiry:
        return None
    if expiry.get("anchor") != "last_active_at":
        raise InvalidParameter("expires_after.anchor", "must be last_active_at")
    days = integer(expiry, "days", 1, 365, at="expires_after.")
    if days is None:
        raise InvalidParameter("expires_after.days", "is missing")
    return days


def _chunking(body: Body, at: str) -> dict[str, Any]:
    """Tokens in a chunk, and how many the next repeats. `auto` lets the gateway choose."""
    strategy = mapping(body, "chunking_strategy", at)
    kind = text(strategy, "type", "auto", at=f"{at}chunking_strategy.")
    if kind == "auto":
        return {"tokens": TOKENS, "overlap": OVERLAP, "auto": True}
    if kind != "static":
        raise InvalidParameter(f"{at}chunking_strategy.type", "must be auto or static")
    where = f"{at}chunking_strategy.static."
    static = mapping(strategy, "static", f"{at}chunking_strategy.")
    tokens = integer(static, "max_chunk_size_tokens", 100, 4096, at=where) or TOKENS
    overlap = integer(static, "chunk_overlap_tokens", 0, 4096, at=where)
    overlap = min(OVERLAP, tokens // 2) if overlap is None else overlap
    if overlap > tokens // 2:
        raise InvalidParameter(
            f"{where}chunk_overlap_tokens", "must not exceed half of the chunk size"
        )
    return {"tokens": tokens, "overlap": overlap, "auto": False}


Attributes = Mapping[str, str | float | bool]
Filter = Callable[[Attributes], bool]

# Attribute filters of searches: comparisons, joined by `and` and `or`. A file without the
# attribute equals nothing, and is neither greater nor less. The format is defined in OpenAI's API
# reference.
DEEPEST_FILTER = 8
MOST_COMPARISONS = 64  # comparisons in one and/or


def parse_filters(value: Any, at: str = "filters") -> Filter | None:
    """None if `value` is null. Raises InvalidParameter with the path of the bad part."""
    return None if value is None else _filter(value, at, 1)


def _filter(value: Any, at: str, depth: int) -> Filter:
    if depth > DEEPEST_FILTER:
        raise InvalidParameter(at, "is nested too deeply")
    body = entry(value, at)
    kind = text(body, "type", at=f"{at}.")
    if kind not in ("and", "or"):
        return _comparison(kind, text(body, "key", at=f"{at}."), body.get("value"), at)
    parts = items(body, "filters", at=f"{at}.")
    if not 0 < len(parts) <= MOST_COMPARISONS:
        raise InvalidParameter(f"{at}.filters", f"must contain 1 to {MOST_COMPARISONS} filters")
    filters = [_filter(part, f"{at}.filters[{i}]", depth + 1) for i, part in enumerate(parts)]
    join = all if kind == "and" else any
    return lambda attributes: join(matches(attributes) for matches in filters)


def _comparison(kind: str, key: str, value: Any, at: str) -> Filter:
    if not key:
        raise InvalidParameter(f"{at}.key", "is missing")
    if kind not in _COMPARISONS:
        raise InvalidParameter(f"{at}.type", f"must be one of {', '.join(_COMPARISONS)}, and, or")
    if kind in ("in", "nin"):
        if not isinstance(value, list) or not all(type(entry) in _PLAIN for entry in value):
            raise InvalidParameter(f"{at}.value", "must be a list of strings, numbers or booleans")
    elif type(value) not in _PLAIN:
        raise InvalidParameter(f"{at}.value", "must be a string, a number or a boolean")
    compare = _COMPARISONS[kind]
    return lambda attributes: compare(attributes.get(key), value)


_PLAIN = {str: str, bool: bool, int: float, float: float}
"""By the type of a value, the one to compare by: 1 and 1.0 have the same, 1 and true do not."""


def _same_kind(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda has, value: _PLAIN.get(type(has)) is _PLAIN[type(value)] and compare(has, value)


_same = _same_kind(operator.eq)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": _same,
    "ne": lambda has, value: not _same(has, value),
    "gt": _same_kind(operator.gt),
    "gte": _same_kind(operator.ge),
    "lt": _same_kind(operator.lt),
    "lte": _same_kind(operator.le),
    "in": lambda has, values: any(_same(has, value) for value in values),
    "nin": lambda has, values: not any(_same(has, value) for value in values),
}


_PAIRS = {"maxProperties": MOST_PAIRS}
METADATA = doc.mapping("Up to 16 pairs of strings.", {"a": "b"}, **_PAIRS)
_ATTRIBUTES = doc.mapping(
    "Up to 16 strings, numbers or booleans, for filters.", {"year": 2001}, **_PAIRS
)
_NAME = doc.text("The name of the vector store.", maxLength=LONGEST_NAME)
_EXPIRES = doc.mapping(
    "`anchor` last_active_at, and `days`.", {"anchor": "last_active_at", "days": 7}
)
_CHUNKING = doc.mapping("`type` auto, or static with a size and an overlap.", {"type": "auto"})
_FILE_IDS = doc.strings("Ids of uploaded files.", "file-1")
SCHEMAS: dict[str, Schema] = {
    "VectorStoreRequest": doc.body(
        name=_NAME,
        description=doc.text("A description."),
        metadata=METADATA,
        expires_after=_EXPIRES,
        file_ids=_FILE_IDS,
        chunking_strategy=_CHUNKING,
    ),
    "VectorStoreChange": doc.body(name=_NAME, metadata=METADATA, expires_after=_EXPIRES),
    "VectorStoreSearch": doc.body(
        "query",
        query=doc.one_of("A string, or up to 16.", "zebra", doc.TEXT, doc.STRINGS),
        filters=doc.mapping(
            "A comparison of attributes, or several joined by `and` or `or`.",
            {"type": "eq", "key": "a", "value": 1},
        ),
        max_num_results=doc.count("Number of passages to return.", 1, MOST_RESULTS, 5),
        ranking_options=doc.mapping("`ranker` and `score_threshold`.", {"score_threshold": 0.1}),
        rewrite_query=doc.flag("Ignored: the query is not rewritten."),
    ),
    "VectorStoreFile": doc.body(
        "file_id",
        file_id=doc.text("An uploaded file.", "file-1"),
        attributes=_ATTRIBUTES,
        chunking_strategy=_CHUNKING,
    ),
    "VectorStoreFileAttributes": doc.body("attributes", attributes=_ATTRIBUTES),
    "VectorStoreFileBatch": doc.body(
        file_ids=_FILE_IDS,
        files=doc.array("Files with their own attributes; cannot be combined with file_ids.", []),
        attributes=_ATTRIBUTES,
        chunking_strategy=_CHUNKING,
    ),
}
