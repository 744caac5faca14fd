"""Parses requests of the routes under /knowledge_base, and builds their answers.

Names of bases and files are never used as paths. Uploads send numbers and flags as form fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ...core.decoding import decoded
from ...errors import InvalidParameter
from ..fields import Body, decimal, entry, flag, integer, items, mapping, text
from .params import hits

MAX_NAME = 200
CHUNK_SIZE = 250  # characters, Chatchat's own defaults
CHUNK_OVERLAP = 50
MAX_CHUNK = 100_000

Pieces = dict[str, tuple[str, ...]]  # file name: texts of its chunks


class Splitting(Struct, frozen=True):
    """Chunk size and overlap, in characters."""

    size: int = CHUNK_SIZE
    overlap: int = CHUNK_OVERLAP


class Create(Struct, frozen=True):
    """A new base; `model` "" uses the server's default."""

    name: str
    model: str


class DocumentUpload(Struct, frozen=True):
    """Files for a base; without `indexed` they are stored but not searched."""

    base: str
    override: bool
    indexed: bool
    cut: Splitting
    pieces: Pieces


class Temporary(Struct, frozen=True):
    """Files for a chat. `base` is the id of an earlier upload to add them to, or ""."""

    base: str
    cut: Splitting


class Delete(Struct, frozen=True):
    """Without `content` the files are kept, but no longer searched."""

    base: str
    files: tuple[str, ...]
    content: bool


class Update(Struct, frozen=True):
    """Files to read and split again."""

    base: str
    files: tuple[str, ...]
    cut: Splitting
    pieces: Pieces


class SearchParams(Struct, frozen=True):
    """A query, or the name of a file whose chunks are listed."""

    base: str
    query: str
    file: str
    top_k: int
    score_threshold: float


class Edit(Struct, frozen=True):
    """New texts of chunks by id; an empty text deletes the chunk."""

    base: str
    texts: dict[str, str]


class Info(Struct, frozen=True):
    base: str
    info: str


class Recreate(Struct, frozen=True):
    """Rebuilds an index; `create` makes the base if it does not exist."""

    base: str
    create: bool
    model: str
    cut: Splitting


def create(body: Body) -> Create:
    """Raises InvalidParameter, like all parsers below."""
    return Create(_name(body), text(body, "embed_model"))


def named(body: Any) -> str:
    """The name of a base from a body that is the name or an object with it."""
    return _name({"knowledge_base_name": body} if type(body) is str else entry(body, "the body"))


def upload(form: Mapping[str, str]) -> DocumentUpload:
    return DocumentUpload(
        _name(form),
        _form_flag(form, "override"),
        _form_flag(form, "to_vector_store", True),
        _cut(_numbers(form)),
        _pieces(form),
    )


def temporary(form: Mapping[str, str]) -> Temporary:
    """Later 0.2.x clients call the id knowledge_id."""
    return Temporary(form.get("knowledge_id") or form.get("prev_id") or "", _cut(_numbers(form)))


def delete(body: Body) -> Delete:
    return Delete(_name(body), _files(body), flag(body, "delete_content"))


def update(body: Body) -> Update:
    return Update(_name(body), _files(body), _cut(body), _pieces(body))


def search(body: Body) -> SearchParams:
    options = hits(body)
    metadata = mapping(body, "metadata")
    file = text(body, "file_name") or text(metadata, "source", at="metadata.")
    return SearchParams(_name(body), text(body, "query"), file, **options)


def edit(body: Body) -> Edit:
    texts = {}
    for key, value in mapping(body, "docs").items():
        at = f"docs.{key[:64]}"
        texts[key] = "" if value is None else text(entry(value, at), "page_content", at=at + ".")
    return Edit(_name(body), texts)


def info(body: Body) -> Info:
    return Info(_name(body), text(body, "kb_info"))


def recreate(body: Body) -> Recreate:
    return Recreate(
        _name(body), flag(body, "allow_empty_kb", True), text(body, "embed_model"), _cut(body)
    )


def document(
    key: str, name: str, place: str, content: str, distance: float | None = None
) -> dict[str, Any]:
    """A chunk as langchain's Document; `distance` is None if it was listed rather than searched."""
    return {
        "page_content": content,
        "metadata": {"source": name, "id": key, "place": place},
        "type": "Document",
        "id": key,
        "score": 3.0 if distance is None else distance,  # Chatchat's value for a listed chunk
    }


def progress(total: int, finished: int, name: str) -> dict[str, Any]:
    """One document of a rebuild's progress stream. `finished` counts the files before this one."""
    return {
        "code": 200,
        "msg": f"({finished + 1} / {total}): {name}",
        "total": total,
        "finished": finished,
        "doc": name,
    }


def unreadable(name: str, why: str) -> dict[str, Any]:
    """A file that could not be read during a rebuild, which continues with the next."""
    return {"code": 500, "msg": f"{name}: {why}"}


class EmptyName(InvalidParameter):
    status = 404  # the code of 0.2.7


class PathName(InvalidParameter):
    status = 403  # the code of 0.2.7


def _name(body: Body) -> str:
    value = text(body, "knowledge_base_name").strip()
    if not value:
        raise EmptyName("knowledge_base_name", "is missing")
    if "/" in value or "\\" in value:
        raise PathName("knowledge_base_name", "must not be a path")
    if len(value) > MAX_NAME or not value.isprintable():
        raise InvalidParameter(
            "knowledge_base_name", f"must be at most {MAX_NAME} printable characters"
        )
    return value


def _files(body: Body) -> tuple[str, ...]:
    values = items(body, "file_names")
    if not all(type(value) is str for value in values):
        raise InvalidParameter("file_names", "must be a list of names")
    return tuple(dict.fromkeys(values))


def _cut(body: Body) -> Splitting:
    size = integer(body, "chunk_size", 1, MAX_CHUNK) or CHUNK_SIZE
    overlap = integer(body, "chunk_overlap", 0, MAX_CHUNK)
    overlap = min(CHUNK_OVERLAP, size // 2) if overlap is None else overlap
    if overlap >= size:
        raise InvalidParameter("chunk_overlap", "must be less than chunk_size")
    return Splitting(size, overlap)


def _pieces(body: Body) -> Pieces:
    """`docs`: an object of file names and langchain Documents, or that object as a JSON string."""
    value = body.get("docs")
    if type(value) is str:
        try:
            value = decoded(value or "{}")
        except ValueError:
            raise InvalidParameter("docs", "must be a JSON object encoded as a string") from None
    pieces = {}
    for name, documents in mapping({"docs": value}, "docs").items():
        at = f"docs.{name[:64]}"
        pieces[name] = tuple(
            text(entry(document, f"{at}[{i}]"), "page_content", at=f"{at}[{i}].")
            for i, document in enumerate(items({at: documents}, at))
        )
    return pieces


def _form_flag(form: Mapping[str, str], name: str, default: bool = False) -> bool:
    value = form.get(name, "").lower()
    if value not in ("", "true", "false", "1", "0"):
        raise InvalidParameter(name, "must be true or false")
    return value in ("true", "1") if value else default


def _numbers(form: Mapping[str, str]) -> dict[str, int]:
    numbers = {}
    for name in ("chunk_size", "chunk_overlap"):
        value = form.get(name, "").strip()
        if value:
            number = decimal(value, 0, 10**9)
            if number is None:
                raise InvalidParameter(name, "must be an integer")
            numbers[name] = number
    return numbers
