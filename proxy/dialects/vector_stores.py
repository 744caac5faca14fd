"""OpenAI's vector stores: what a client may ask for. `vector_store_objects` has the answers.

The source of the shapes is OpenAI's API reference and its client's types. Not ours to honour:
`rewrite_query` (the query is searched for as it is; an answer shows it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ..core.invalid import Invalid
from . import attribute_filters
from .attribute_filters import Filter
from .fields import Body, entry, flag, integer, items, mapping, text

MOST_RESULTS, RESULTS = 50, 10
MOST_FILES = 2000  # of a batch
MOST_QUERIES = 16
MOST_PAIRS, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512  # of metadata and attributes
LONGEST_NAME = 256
TOKENS, OVERLAP = 800, 400  # a chunk, unless a client says otherwise
STATUSES = ("in_progress", "completed", "failed", "cancelled")


class Chunking(Struct, frozen=True):
    """Tokens of a chunk, and how many of them the next one repeats. `auto` is ours to choose."""

    tokens: int = TOKENS
    overlap: int = OVERLAP
    auto: bool = True


class Attachment(Struct, frozen=True):
    """A file that a vector store is to take in."""

    file_id: str
    attributes: dict[str, Any]
    chunking: Chunking


class StoreRequest(Struct, frozen=True):
    """A new vector store. `lasts` in days since it was last used; None: until it is deleted."""

    name: str
    description: str
    metadata: dict[str, str]
    lasts: int | None
    files: tuple[Attachment, ...]


class Change(Struct, frozen=True):
    """None leaves a thing as it is; `lasts` 0 takes the expiry away."""

    name: str | None
    metadata: dict[str, str] | None
    lasts: int | None


class SearchRequest(Struct, frozen=True):
    """`threshold` from 0 to 1, larger is nearer; `rank`: a ranking model may look again."""

    queries: tuple[str, ...]
    filter: Filter | None
    most: int
    threshold: float
    rank: bool


def parse_create(body: Body) -> StoreRequest:
    """Raises Invalid naming the field."""
    chunking = _chunking(body, "")
    ids = _file_ids(body, MOST_FILES)
    return StoreRequest(
        _name(body) or "",
        text(body, "description")[:LONGEST_VALUE],
        metadata(body) or {},
        _lasts(body) or None,
        tuple(Attachment(one, {}, chunking) for one in ids),
    )


def parse_update(body: Body) -> Change:
    lasts = _lasts(body)
    if lasts is None and "expires_after" in body:
        lasts = 0
    return Change(_name(body), metadata(body), lasts)


def parse_attach(body: Body, at: str = "") -> Attachment:
    file_id = text(body, "file_id", at=at)
    if not file_id:
        raise Invalid(f"{at}file_id", "is missing")
    return Attachment(file_id, attributes(body, at), _chunking(body, at))


def parse_batch(body: Body) -> tuple[Attachment, ...]:
    """`file_ids` with attributes and chunking for all of them, or `files` with their own. What is
    named again replaces what it said before, so each file is attached once."""
    files = items(body, "files")
    ids = _file_ids(body, MOST_FILES)
    if bool(files) is bool(ids):
        raise Invalid("file_ids", "must hold files, or else `files` must")
    if len(files) > MOST_FILES:
        raise Invalid("files", f"may hold {MOST_FILES} files at most")
    if ids:
        shared, chunking = attributes(body), _chunking(body, "")
        return tuple(Attachment(one, shared, chunking) for one in ids)
    own = [parse_attach(entry(one, f"files[{i}]"), f"files[{i}].") for i, one in enumerate(files)]
    return tuple({one.file_id: one for one in own}.values())


def parse_search(body: Body) -> SearchRequest:
    query = body.get("query")
    queries = [query] if type(query) is str else query
    if not isinstance(queries, list) or not all(type(one) is str and one for one in queries):
        raise Invalid("query", "must be a text or a list of texts")
    if not 0 < len(queries) <= MOST_QUERIES:
        raise Invalid("query", f"must hold 1 to {MOST_QUERIES} texts")
    options = mapping(body, "ranking_options")
    threshold = options.get("score_threshold") or 0.0
    if type(threshold) not in (int, float) or not 0 <= threshold <= 1:
        raise Invalid("ranking_options.score_threshold", "must be from 0 to 1")
    flag(body, "rewrite_query")
    return SearchRequest(
        tuple(queries),
        attribute_filters.parse(body.get("filters")),
        integer(body, "max_num_results", 1, MOST_RESULTS) or RESULTS,
        float(threshold),
        text(options, "ranker", "auto", at="ranking_options.") != "none",
    )


def attributes(body: Body, at: str = "") -> dict[str, Any]:
    """Of a file: texts, numbers, booleans."""
    found = mapping(body, "attributes", at)
    _pairs(found, f"{at}attributes")
    for key, value in found.items():
        if type(value) not in (str, int, float, bool):
            raise Invalid(f"{at}attributes.{key}", "must be a string, a number or a boolean")
    return dict(found)


def metadata(body: Body) -> dict[str, str] | None:
    if body.get("metadata") is None:
        return None
    found = mapping(body, "metadata")
    _pairs(found, "metadata")
    for key, value in found.items():
        if type(value) is not str:
            raise Invalid(f"metadata.{key}", "must be a string")
    return dict(found)


def status_filter(query: Mapping[str, str]) -> str:
    """The `filter` of a list of files; "": all. Raises Invalid."""
    status = query.get("filter") or ""
    if status and status not in STATUSES:
        raise Invalid("filter", f"must be one of {', '.join(STATUSES)}")
    return status


def _pairs(found: Body, at: str) -> None:
    if len(found) > MOST_PAIRS:
        raise Invalid(at, f"may hold {MOST_PAIRS} pairs at most")
    for key, value in found.items():
        if len(key) > LONGEST_KEY:
            raise Invalid(at, f"has a key of more than {LONGEST_KEY} characters")
        if type(value) is str and len(value) > LONGEST_VALUE:
            raise Invalid(f"{at}.{key}", f"may have {LONGEST_VALUE} characters at most")


def _name(body: Body) -> str | None:
    if body.get("name") is None:
        return None
    name = text(body, "name")
    if len(name) > LONGEST_NAME:
        raise Invalid("name", f"may have {LONGEST_NAME} characters at most")
    return name


def _lasts(body: Body) -> int | None:
    expiry = mapping(body, "expires_after")
    if not expiry:
        return None
    if expiry.get("anchor") != "last_active_at":
        raise Invalid("expires_after.anchor", "must be last_active_at")
    days = integer(expiry, "days", 1, 365, at="expires_after.")
    if days is None:
        raise Invalid("expires_after.days", "is missing")
    return days


def _file_ids(body: Body, most: int) -> list[str]:
    ids = items(body, "file_ids")
    if len(ids) > most or not all(type(one) is str and one for one in ids):
        raise Invalid("file_ids", f"must hold {most} ids of files at most")
    return list(dict.fromkeys(ids))


def _chunking(body: Body, at: str) -> Chunking:
    asked = mapping(body, "chunking_strategy", at)
    kind = text(asked, "type", "auto", at=f"{at}chunking_strategy.")
    if kind == "auto":
        return Chunking()
    if kind != "static":
        raise Invalid(f"{at}chunking_strategy.type", "must be auto or static")
    where = f"{at}chunking_strategy.static."
    static = mapping(asked, "static", f"{at}chunking_strategy.")
    tokens = integer(static, "max_chunk_size_tokens", 100, 4096, at=where) or TOKENS
    overlap = integer(static, "chunk_overlap_tokens", 0, 4096, at=where)
    overlap = min(OVERLAP, tokens // 2) if overlap is None else overlap
    if overlap > tokens // 2:
        raise Invalid(f"{where}chunk_overlap_tokens", "must not exceed half of the chunk")
    return Chunking(tokens, overlap, auto=False)
