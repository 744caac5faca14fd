"""What the routes under /knowledge_base are asked.

Names of bases and files are names: nothing here is ever a path. Numbers and flags of an upload come
as the texts of a form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ...core.decoding import decoded
from ...core.invalid import Invalid
from ..fields import Body, entry, flag, integer, items, mapping, text
from .asked import hits

MAX_NAME = 200
CHUNK_SIZE = 250  # characters, Chatchat's own defaults
CHUNK_OVERLAP = 50
MAX_CHUNK = 100_000

Pieces = dict[str, tuple[str, ...]]  # by a file's name, the texts of its chunks


class Cut(Struct, frozen=True):
    """How to split, in characters."""

    size: int = CHUNK_SIZE
    overlap: int = CHUNK_OVERLAP


class Create(Struct, frozen=True):
    """`model` "" means the server's own choice."""

    name: str
    model: str


class Upload(Struct, frozen=True):
    """Files for a base. `indexed` false: they are only kept."""

    base: str
    override: bool
    indexed: bool
    cut: Cut
    pieces: Pieces


class Temporary(Struct, frozen=True):
    """Files for a chat. `base` is the id of an earlier upload, which they join, or ""."""

    base: str
    cut: Cut


class Delete(Struct, frozen=True):
    """`content` false: the files are kept, and found no more."""

    base: str
    files: tuple[str, ...]
    content: bool


class Update(Struct, frozen=True):
    """Files to be read and split anew."""

    base: str
    files: tuple[str, ...]
    cut: Cut
    pieces: Pieces


class Search(Struct, frozen=True):
    """A query, or else the name of the file whose chunks are to be listed."""

    base: str
    query: str
    file: str
    top_k: int
    score_threshold: float


class Edit(Struct, frozen=True):
    """New texts of chunks by id; an empty one takes its chunk away."""

    base: str
    texts: dict[str, str]


class Info(Struct, frozen=True):
    base: str
    info: str


class Recreate(Struct, frozen=True):
    """`create`: a base that is not there is made."""

    base: str
    create: bool
    model: str
    cut: Cut


def create(body: Body) -> Create:
    """Raises Invalid, here as in all of these."""
    return Create(_name(body), text(body, "embed_model"))


def named(body: Any) -> str:
    """The name of a base: the body is that text, or an object that holds it."""
    return _name({"knowledge_base_name": body} if type(body) is str else entry(body, "the body"))


def upload(form: Mapping[str, str]) -> Upload:
    return Upload(
        _name(form),
        _form_flag(form, "override"),
        _form_flag(form, "to_vector_store", True),
        _cut(_numbers(form)),
        _pieces(form),
    )


def temporary(form: Mapping[str, str]) -> Temporary:
    """Later clients of the 0.2 series call the id knowledge_id."""
    return Temporary(form.get("knowledge_id") or form.get("prev_id") or "", _cut(_numbers(form)))


def delete(body: Body) -> Delete:
    return Delete(_name(body), _files(body), flag(body, "delete_content"))


def update(body: Body) -> Update:
    return Update(_name(body), _files(body), _cut(body), _pieces(body))


def search(body: Body) -> Search:
    found = hits(body)
    metadata = mapping(body, "metadata")
    file = text(body, "file_name") or text(metadata, "source", at="metadata.")
    return Search(_name(body), text(body, "query"), file, **found)


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


def found(
    key: str, name: str, place: str, content: str, distance: float | None = None
) -> dict[str, Any]:
    """A chunk as a document of langchain's, with its distance where it was searched for."""
    return {
        "page_content": content,
        "metadata": {"source": name, "id": key, "place": place},
        "type": "Document",
        "id": key,
        "score": 3.0 if distance is None else distance,  # the value of one not searched for
    }


def progress(total: int, finished: int, name: str) -> dict[str, Any]:
    """A step of a rebuilding: one document of the stream. `finished` counts those before it."""
    return {
        "code": 200,
        "msg": f"({finished + 1} / {total}): {name}",
        "total": total,
        "finished": finished,
        "doc": name,
    }


def stumble(name: str, why: str) -> dict[str, Any]:
    """A file that could not be read; the rebuilding goes on."""
    return {"code": 500, "msg": f"{name}: {why}"}


def _name(body: Body) -> str:
    value = text(body, "knowledge_base_name").strip()
    if not value:
        raise Invalid("knowledge_base_name", "is missing")
    if len(value) > MAX_NAME or not value.isprintable() or "/" in value or "\\" in value:
        raise Invalid(
            "knowledge_base_name", f"must be up to {MAX_NAME} printable characters, and no path"
        )
    return value


def _files(body: Body) -> tuple[str, ...]:
    values = items(body, "file_names")
    if not all(type(value) is str for value in values):
        raise Invalid("file_names", "must be a list of names")
    return tuple(dict.fromkeys(values))


def _cut(body: Body) -> Cut:
    size = integer(body, "chunk_size", 1, MAX_CHUNK) or CHUNK_SIZE
    overlap = integer(body, "chunk_overlap", 0, MAX_CHUNK)
    overlap = min(CHUNK_OVERLAP, size // 2) if overlap is None else overlap
    if overlap >= size:
        raise Invalid("chunk_overlap", "must be less than chunk_size")
    return Cut(size, overlap)


def _pieces(body: Body) -> Pieces:
    """`docs`: an object, or the text of one, of file names and langchain's documents."""
    value = body.get("docs")
    if type(value) is str:
        try:
            value = decoded(value or "{}")
        except ValueError:
            raise Invalid("docs", "must be the text of a JSON object") from None
    out = {}
    for name, documents in mapping({"docs": value}, "docs").items():
        at = f"docs.{name[:64]}"
        out[name] = tuple(
            text(entry(one, f"{at}[{i}]"), "page_content", at=f"{at}[{i}].")
            for i, one in enumerate(items({at: documents}, at))
        )
    return out


def _form_flag(form: Mapping[str, str], name: str, default: bool = False) -> bool:
    value = form.get(name, "").lower()
    if value not in ("", "true", "false", "1", "0"):
        raise Invalid(name, "must be true or false")
    return value in ("true", "1") if value else default


def _numbers(form: Mapping[str, str]) -> dict[str, int]:
    out = {}
    for name in ("chunk_size", "chunk_overlap"):
        value = form.get(name, "").strip()
        if value:
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise Invalid(name, "must be an integer")
            out[name] = int(value)
    return out
