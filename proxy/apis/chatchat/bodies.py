"""The fields of the bodies and forms of Langchain-Chatchat's routes.

Names of bases and files are never used as paths. Uploads send numbers and flags as texts of a form.
Some clients send `controller_address`, the server that the original calls; it is ignored here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ...core.decoding import decoded
from ...core.request import Message, Role
from ...core.sampling import with_defaults
from ...errors import InvalidParameter
from .. import fields
from .. import schema_fields as doc
from ..fields import Body, entry, filled, flag, integer, items, mapping, model_name, text
from ..openai.answer import MAX_TOKENS
from ..schema_fields import COUNT, OBJECT, TEXT, Field, Fields, Schema

# Folders of templates/dialogues with each kind's prompt templates.
FOLDERS = ("llm_chat", "knowledge_base_chat", "search_engine_chat", "agent_chat")
ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
SPOKEN = {"human": "user", "ai": "assistant"}  # langchain's names
TEMPERATURE = {"temperature": 0.7}
MODIFIED = {"temperature": 0.95, "top_p": 0.7}  # defaults of the {messages, ...} form
TOP_K = 3
MOST_HITS = 100
SCORE_THRESHOLD = 1.0
FARTHEST = 2.0
MAX_NAME = 200
CHUNK_SIZE = 250  # characters, Chatchat's own defaults
CHUNK_OVERLAP = 50
MAX_CHUNK = 100_000
LOCAL = "local"  # of the client's kinds of models: local, online, worker

Reader = Callable[[Body, str], Any]


class BodyForm:
    """The fields of a body, and the names of those that it needs."""

    def __init__(self, required: str = "", /, **declared: Schema | Field) -> None:
        self.schema = doc.body(required, **declared)
        self.parse = partial(doc.read_all, fields=declared)


class EmptyName(InvalidParameter):
    status = 404  # the code of 0.2.7


class PathName(InvalidParameter):
    status = 403  # the code of 0.2.7


# -- readers


def _base(body: Body, field: str) -> str:
    value = text(body, field).strip()
    if not value:
        raise EmptyName(field, "is missing")
    if "/" in value or "\\" in value:
        raise PathName(field, "must not be a path")
    if len(value) > MAX_NAME or not value.isprintable():
        raise InvalidParameter(field, f"must be at most {MAX_NAME} printable characters")
    return value


def _engine(body: Body, field: str) -> str:
    flag(body, "split_result")  # the original heeds it for one engine, which we do not have
    return filled(body, field)


def _bases(body: Body, field: str) -> tuple[str]:
    return (filled(body, field),)


def _template(body: Body, field: str) -> str:
    return text(body, field) or "default"


def _flag(default: bool) -> Reader:
    def read(body: Body, field: str) -> bool:
        value = body.get(field)
        if type(value) is not str:
            return flag(body, field, default)
        if value.lower() not in ("", "true", "false", "1", "0"):
            raise InvalidParameter(field, "must be true or false")
        return value.lower() in ("true", "1") if value else default

    return read


def _conversation(body: Body, field: str) -> tuple[Message, ...]:
    history = body.get("history")
    if type(history) is int:  # a number of stored turns to use: none are stored
        history = []
    messages = _history(items({"history": history}, "history"), "history")
    return (*messages, Message(role="user", content=filled(body, field)))


def _messages(body: Body, field: str) -> tuple[Message, ...]:
    values = items(body, field)
    if not values:
        raise InvalidParameter(field, "must contain at least one message")
    return _history(values, field)


def _history(values: list[Any], name: str) -> tuple[Message, ...]:
    """Messages, each an object or a [role, content] pair."""
    messages = []
    for i, value in enumerate(values):
        at = f"{name}[{i}]"
        if isinstance(value, list) and len(value) == 2:
            value = {"role": value[0], "content": value[1]}
        if not isinstance(value, dict):
            raise InvalidParameter(at, "must be an object with role and content")
        spoken = text(value, "role", "user", at=at + ".")
        role = ROLES.get(SPOKEN.get(spoken, spoken))
        if role is None:
            raise InvalidParameter(at + ".role", f"must be one of {', '.join(ROLES)}")
        messages.append(Message(role=role, content=text(value, "content", at=at + ".")))
    return tuple(messages)


def _limit(body: Body, field: str) -> int | None:
    """Zero and negative values mean no limit."""
    limit = integer(body, field, -MAX_TOKENS, MAX_TOKENS)
    return limit if limit is not None and limit > 0 else None


def _nearness(body: Body, field: str) -> float | None:
    """The score, from 0 to 1, of Chatchat's distance, from 0 to 2. None excludes nothing."""
    value = SCORE_THRESHOLD if body.get(field) is None else body[field]
    if type(value) not in (int, float) or not 0 <= value <= FARTHEST:
        raise InvalidParameter(field, "must be a number from 0 to 2")
    return None if value >= FARTHEST else 1 - value / FARTHEST


def _answer_id(body: Body, field: str) -> str:
    return filled(body, field if field in body else "message_id")


def _earlier_upload(body: Body, field: str) -> str:
    return text(body, field) or text(body, "prev_id")


def _file(body: Body, field: str) -> str:
    return text(body, field) or text(mapping(body, "metadata"), "source", at="metadata.")


def _cut(body: Body, field: str) -> tuple[int, int]:
    size = _count(body, field, 1) or CHUNK_SIZE
    overlap = _count(body, "chunk_overlap", 0)
    overlap = min(CHUNK_OVERLAP, size // 2) if overlap is None else overlap
    if overlap >= size:
        raise InvalidParameter("chunk_overlap", "must be less than chunk_size")
    return size, overlap


def _count(body: Body, field: str, low: int) -> int | None:
    value = body.get(field)
    if type(value) is not str:
        return integer(body, field, low, MAX_CHUNK)
    if not value.strip():
        return None
    number = fields.decimal(value.strip(), low, MAX_CHUNK)
    if number is None:
        raise InvalidParameter(field, f"must be an integer from {low} to {MAX_CHUNK}")
    return number


def _texts(body: Body, field: str) -> dict[str, str]:
    """New texts of chunks by id; an empty text deletes the chunk."""
    texts = {}
    for key, value in mapping(body, field).items():
        at = f"{field}.{key[:64]}"
        texts[key] = "" if value is None else text(entry(value, at), "page_content", at=at + ".")
    return texts


def _pieces(body: Body, field: str) -> dict[str, tuple[str, ...]]:
    """Texts of chunks by the name of their file, of langchain's Documents or their JSON."""
    value = body.get(field)
    if type(value) is str:
        try:
            value = decoded(value or "{}")
        except ValueError:
            raise InvalidParameter(field, "must be a JSON object encoded as a string") from None
    pieces = {}
    for name, documents in mapping({field: value}, field).items():
        at = f"{field}.{name[:64]}"
        pieces[name] = tuple(
            text(entry(document, f"{at}[{i}]"), "page_content", at=f"{at}[{i}].")
            for i, document in enumerate(items({at: documents}, at))
        )
    return pieces


def _folder(body: Body, field: str) -> str:
    return fields.choice(body, field, FOLDERS, FOLDERS[0])


def _inputs(body: Body, field: str) -> tuple[str, ...]:
    values = items(body, field)
    if not values or not all(type(value) is str and value for value in values):
        raise InvalidParameter(field, "must be a list of strings")
    return tuple(values)


# -- fields


def _switch(key: str, description: str, default: bool = False) -> Field:
    return Field(doc.flag(description, default), key, _flag(default))


def _temperature(defaults: Mapping[str, float]) -> Field:
    schema = {**doc.SAMPLERS["temperature"], "default": defaults["temperature"]}
    return Field(schema, "sampling", lambda body, field: with_defaults(body, defaults))


_STREAM = Field(doc.STREAM, "stream", flag)
_LIMIT = "Maximum tokens of the answer; 0 or less: limited by the context only."
_MAX_TOKENS = Field(doc.count(_LIMIT, -MAX_TOKENS, MAX_TOKENS, 16), "max_tokens", _limit)
_ANSWER: Fields = {
    "model_name": Field(doc.MODEL, "model", model_name),
    "stream": _STREAM,
    "temperature": _temperature(TEMPERATURE),
    "max_tokens": _MAX_TOKENS,
}
_CHAT: Fields = {
    "query": doc.text_field("messages", "The question.", "Hello!", _conversation),
    "history": doc.one_of(
        "The conversation so far: objects with `role` and `content`, or pairs.",
        [{"role": "user", "content": "Hi"}],
        {"type": "array"},
        {"type": "integer"},
    ),
    **_ANSWER,
    "prompt_name": doc.text_field(
        "template", "A template of this kind of dialogue.", "default", _template
    ),
}
_THRESHOLD = "The largest distance of a passage; 2: any."
_HITS: Fields = {
    "top_k": doc.count_field("top_k", "How many passages to use.", 1, MOST_HITS, TOP_K, TOP_K),
    "score_threshold": Field(
        doc.number(_THRESHOLD, 0, FARTHEST, SCORE_THRESHOLD), "score_threshold", _nearness
    ),
}
_NAME = doc.text("The name or id of a knowledge base.", "samples", maxLength=MAX_NAME)
_EMBEDDER = "An embedding model of the gateway; any other means the default."
_MODEL = doc.text_field("model", _EMBEDDER, "any")
_UPLOADS = doc.binary("A file; may be repeated.")
_FILES = Field(doc.strings("Names of documents.", "rules.md"), "files", fields.strings)
_OVERLAP = "Characters that two chunks share."
_CUT: Fields = {
    "chunk_size": Field(doc.count("Characters of a chunk.", 1, MAX_CHUNK, CHUNK_SIZE), "cut", _cut),
    "chunk_overlap": doc.count(_OVERLAP, 0, MAX_CHUNK, CHUNK_OVERLAP),
}


def _of_base(**declared: Schema | Field) -> BodyForm:
    base = Field(_NAME, "base", _base)
    return BodyForm("knowledge_base_name", knowledge_base_name=base, **declared)


BODIES: dict[str, BodyForm] = {
    # Dialogues
    "ChatchatChatRequest": BodyForm("query", **_CHAT),
    "ChatchatMessagesRequest": BodyForm(
        "messages",
        messages=Field(doc.array("The conversation.", doc.USER_MESSAGE), "messages", _messages),
        model=Field(doc.MODEL, "model", model_name),
        stream=_STREAM,
        temperature=_temperature(MODIFIED),
        top_p={**doc.SAMPLERS["top_p"], "default": MODIFIED["top_p"]},
        max_tokens=_MAX_TOKENS,
    ),
    "ChatchatKnowledgeChatRequest": BodyForm(
        "query knowledge_base_name",
        knowledge_base_name=Field(_NAME, "bases", _bases),
        **_CHAT,
        **_HITS,
    ),
    "ChatchatFileChatRequest": BodyForm(
        "query knowledge_id",
        knowledge_id=doc.text_field("bases", "The id that the upload returned.", "samples", _bases),
        **_CHAT,
        **_HITS,
    ),
    "ChatchatSearchChatRequest": BodyForm(
        "query search_engine_name",
        search_engine_name=doc.text_field(
            "engine", "A search engine of the gateway.", "searxng", _engine
        ),
        top_k=doc.count_field("top_k", "How many pages to use.", 1, MOST_HITS, TOP_K, TOP_K),
        split_result=doc.flag("Without effect: the engine's snippets are used."),
        **_CHAT,
    ),
    "ChatchatCompletionRequest": BodyForm(
        "query",
        query=doc.text_field("prompt", "The text to continue.", "Once upon a time", filled),
        echo=_switch("echo", "Repeat the text before the answer."),
        **_ANSWER,
        prompt_name=doc.text_field(
            "template", "A template of the folder `completion`.", "default", _template
        ),
    ),
    "ChatchatFeedback": BodyForm(
        chat_history_id=doc.text_field("history_id", "The id of the answer.", "0" * 32, _answer_id),
        message_id=doc.text("The same, as later clients call it.", "0" * 32),
        score=doc.count_field("score", "The rating.", 0, 100, 100, 0),
        reason=doc.text_field("reason", "The reason for it; not kept."),
    ),
    # Knowledge bases
    "ChatchatBase": _of_base(),
    "ChatchatNewBase": _of_base(embed_model=_MODEL),
    "ChatchatBaseInfo": _of_base(kb_info=doc.text_field("info", "The description.")),
    "ChatchatRebuild": _of_base(
        allow_empty_kb=_switch("create", "Create a base that does not exist.", True),
        embed_model=_MODEL,
        **_CUT,
    ),
    "ChatchatSearch": _of_base(
        query=doc.text_field("query", "Without it, the chunks of `file_name` are listed.", "boats"),
        file_name=doc.text_field("file", "A document.", "rules.md", _file),
        metadata=doc.mapping("`source`: the same, in another place.", {"source": "rules.md"}),
        **_HITS,
    ),
    "ChatchatEdit": _of_base(
        docs=Field(
            doc.mapping(
                "By the id of a chunk, an object with its new `page_content`; null or an empty text"
                " deletes it.",
                {"1": {"page_content": "Boats may stay for ten days."}},
            ),
            "texts",
            _texts,
        )
    ),
    "ChatchatDelete": _of_base(
        file_names=_FILES,
        delete_content=_switch("content", "Delete the files too, and not only their chunks."),
    ),
    "ChatchatUpdate": _of_base(
        file_names=_FILES,
        **_CUT,
        docs=Field(
            doc.one_of(
                "Chunks to store instead of reading the file: by its name, objects with"
                " `page_content`. As an object, or as JSON in a string.",
                {"rules.md": [{"page_content": "Boats may stay for nine days."}]},
                OBJECT,
                TEXT,
            ),
            "pieces",
            _pieces,
        ),
    ),
    # Models and the server
    "ChatchatModelKinds": BodyForm(
        types=Field(doc.strings("Kinds; `local` are those here.", LOCAL), "types", items)
    ),
    "ChatchatModelName": BodyForm(model_name=doc.text_field("name", "The model's name.", "any")),
    "ChatchatModelChange": BodyForm(
        "new_model_name",
        model_name=doc.text_field("old", "Ignored: no model is stopped.", "any"),
        new_model_name=doc.text_field("name", "The model to use from now on.", "any", filled),
    ),
    "ChatchatTemplate": BodyForm(
        type=doc.text_field("folder", "A kind of dialogue.", FOLDERS[0], _folder, enum=[*FOLDERS]),
        name=doc.text_field("name", "The name of the template.", "default", _template),
    ),
    "ChatchatTexts": BodyForm(
        "texts",
        texts=Field(doc.strings("The texts to embed.", "Hello!", minItems=1), "texts", _inputs),
        embed_model=Field(doc.MODEL, "model", text),
        to_query=_switch("is_query", "The texts are questions."),
    ),
    # Forms
    "ChatchatDocuments": _of_base(
        files=_UPLOADS,
        override=_switch("override", "Replace documents of the same name."),
        to_vector_store=_switch("indexed", "Index the documents.", True),
        **_CUT,
        docs=doc.text_field("pieces", "Chunks to store instead of a file, as JSON.", "{}", _pieces),
    ),
    "ChatchatChatFiles": BodyForm(
        files=_UPLOADS,
        knowledge_id=doc.text_field(
            "base", "The id of an earlier upload that these files join.", "", _earlier_upload
        ),
        prev_id=doc.text("The same, as earlier clients call it.", ""),
        **_CUT,
    ),
}
# What a query names.
BASE = BODIES["ChatchatBase"]
FILE = _of_base(file_name=Field(TEXT, "file", filled))
SCHEMAS: dict[str, Schema] = {
    **{name: form.schema for name, form in BODIES.items()},
    "ChatchatError": doc.object_of("code msg data", code=COUNT, msg=TEXT, data={}),
}
