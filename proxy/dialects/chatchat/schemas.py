"""JSON schemas of the bodies and forms of Langchain-Chatchat's API, as `dialects.schemas`."""

from __future__ import annotations

from ..openai import MAX_TOKENS
from ..schema_fields import (
    MODEL,
    SAMPLERS,
    STREAM,
    Schema,
    array,
    binary,
    body,
    count,
    flag,
    mapping,
    number,
    one_of,
    text,
)
from . import bases, params, server

# -- dialogues -------------------------------------------------------------------------------------

_TEMPERATURE = {**SAMPLERS["temperature"], "default": params.TEMPERATURE}
_MAX_TOKENS = count(
    "Maximum tokens of the answer; 0 or less: limited by the context only.",
    -MAX_TOKENS,
    MAX_TOKENS,
    16,
)
_COMMON: dict[str, Schema] = {
    "query": text("The question.", "Hello!"),
    "history": one_of(
        "The conversation so far: objects with `role` and `content`, or pairs.",
        [{"role": "user", "content": "Hi"}],
        {"type": "array"},
        {"type": "integer"},
    ),
    "model_name": MODEL,
    "stream": STREAM,
    "temperature": _TEMPERATURE,
    "max_tokens": _MAX_TOKENS,
    "prompt_name": text("A template of this kind of dialogue.", "default"),
}
_HITS: dict[str, Schema] = {
    "top_k": count("How many passages to use.", 1, params.MOST_HITS, params.TOP_K),
    "score_threshold": number(
        "The largest distance of a passage; 2: any.", 0, params.FARTHEST, params.SCORE_THRESHOLD
    ),
}
_BASE = text("The name or id of a knowledge base.", "samples", maxLength=bases.MAX_NAME)
CHAT = body(_COMMON, "query")
CHAT_MESSAGES = body(
    {
        "messages": array("The conversation.", [{"role": "user", "content": "Hello!"}]),
        "model": MODEL,
        "stream": STREAM,
        "temperature": {**SAMPLERS["temperature"], "default": params.MODIFIED["temperature"]},
        "top_p": {**SAMPLERS["top_p"], "default": params.MODIFIED["top_p"]},
        "max_tokens": _MAX_TOKENS,
    },
    "messages",
)
KNOWLEDGE_CHAT = body(
    {"knowledge_base_name": _BASE, **_COMMON, **_HITS}, "query", "knowledge_base_name"
)
FILE_CHAT = body(
    {
        "knowledge_id": text("The id that the upload of the files returned.", "samples"),
        **_COMMON,
        **_HITS,
    },
    "query",
    "knowledge_id",
)
SEARCH_CHAT = body(
    {
        "search_engine_name": text("A search engine of the gateway.", "searxng"),
        "top_k": count("How many pages to use.", 1, params.MOST_HITS, params.TOP_K),
        "split_result": flag("Use the passages of long pages that fit the question."),
        **_COMMON,
    },
    "query",
    "search_engine_name",
)
COMPLETION = body(
    {
        "query": text("The text to continue.", "Once upon a time"),
        "echo": flag("Repeat the text before the answer."),
        "model_name": MODEL,
        "stream": STREAM,
        "temperature": _TEMPERATURE,
        "max_tokens": _MAX_TOKENS,
        "prompt_name": text("A template of the folder `completion`.", "default"),
    },
    "query",
)
FEEDBACK = body(
    {
        "chat_history_id": text("The id of the answer.", "0" * 32),
        "message_id": text("The same, as later clients call it.", "0" * 32),
        "score": count("The rating.", 0, 100, 100),
        "reason": text("The reason for it."),
    }
)

# -- knowledge bases -------------------------------------------------------------------------------

_MODEL = text("An embedding model of the gateway; any other means the default.", "any")
_FILES = array("Names of documents.", ["rules.md"], {"type": "string"})
_CUT: dict[str, Schema] = {
    "chunk_size": count("Characters of a chunk.", 1, bases.MAX_CHUNK, bases.CHUNK_SIZE),
    "chunk_overlap": count(
        "Characters that two chunks share.", 0, bases.MAX_CHUNK, bases.CHUNK_OVERLAP
    ),
}
_PIECES = one_of(
    "Chunks to store instead of reading the file: by its name, objects with `page_content`. As an"
    " object, or as JSON in a string.",
    {"rules.md": [{"page_content": "Boats may stay for nine days."}]},
    {"type": "object"},
    {"type": "string"},
)
BASE = body({"knowledge_base_name": _BASE}, "knowledge_base_name")
NEW_BASE = body({"knowledge_base_name": _BASE, "embed_model": _MODEL}, "knowledge_base_name")
BASE_INFO = body(
    {"knowledge_base_name": _BASE, "kb_info": text("The description.")}, "knowledge_base_name"
)
REBUILD = body(
    {
        "knowledge_base_name": _BASE,
        "allow_empty_kb": flag("Create a base that does not exist.", True),
        "embed_model": _MODEL,
        **_CUT,
    },
    "knowledge_base_name",
)
SEARCH = body(
    {
        "knowledge_base_name": _BASE,
        "query": text("The question. Without it, the chunks of `file_name` are listed.", "boats"),
        "file_name": text("A document.", "rules.md"),
        "metadata": mapping("`source`: the same, in another place.", {"source": "rules.md"}),
        **_HITS,
    },
    "knowledge_base_name",
)
EDIT = body(
    {
        "knowledge_base_name": _BASE,
        "docs": mapping(
            "By the id of a chunk, an object with its new `page_content`; null or an empty text"
            " deletes it.",
            {"1": {"page_content": "Boats may stay for ten days."}},
        ),
    },
    "knowledge_base_name",
)
DELETE = body(
    {
        "knowledge_base_name": _BASE,
        "file_names": _FILES,
        "delete_content": flag("Delete the files too, and not only their chunks."),
    },
    "knowledge_base_name",
)
UPDATE = body(
    {"knowledge_base_name": _BASE, "file_names": _FILES, **_CUT, "docs": _PIECES},
    "knowledge_base_name",
)

# -- models and the server -------------------------------------------------------------------------

KINDS = body(
    {"types": array("Kinds of models; `local` are those here.", [server.LOCAL], {"type": "string"})}
)
MODEL_NAME = body({"model_name": text("The model's name.", "any")})
CHANGE = body(
    {
        "model_name": text("Ignored: no model is stopped.", "any"),
        "new_model_name": text("The model to use from now on.", "any"),
    },
    "new_model_name",
)
TEMPLATE = body(
    {
        "type": text("A kind of dialogue.", "llm_chat", enum=list(params.FOLDERS.values())),
        "name": text("The name of the template.", "default"),
    }
)
TEXTS = body(
    {
        "texts": {**array("The texts to embed.", ["Hello!"], {"type": "string"}), "minItems": 1},
        "embed_model": MODEL,
        "to_query": flag("The texts are questions."),
    },
    "texts",
)

# -- forms -----------------------------------------------------------------------------------------

_FILE = binary("A file; may be repeated.")
DOCUMENTS = body(
    {
        "files": _FILE,
        "knowledge_base_name": _BASE,
        "override": flag("Replace documents of the same name."),
        "to_vector_store": flag("Index the documents.", True),
        **_CUT,
        "docs": text("Chunks to store instead of reading a file, as JSON.", "{}"),
    },
    "knowledge_base_name",
)
CHAT_FILES = body(
    {
        "files": _FILE,
        "knowledge_id": text("The id of an earlier upload that these files join.", ""),
        "prev_id": text("The same, as earlier clients call it.", ""),
        **_CUT,
    }
)

BODIES: dict[str, Schema] = {
    "ChatchatChatRequest": CHAT,
    "ChatchatMessagesRequest": CHAT_MESSAGES,
    "ChatchatKnowledgeChatRequest": KNOWLEDGE_CHAT,
    "ChatchatFileChatRequest": FILE_CHAT,
    "ChatchatSearchChatRequest": SEARCH_CHAT,
    "ChatchatCompletionRequest": COMPLETION,
    "ChatchatFeedback": FEEDBACK,
    "ChatchatBase": BASE,
    "ChatchatNewBase": NEW_BASE,
    "ChatchatBaseInfo": BASE_INFO,
    "ChatchatRebuild": REBUILD,
    "ChatchatSearch": SEARCH,
    "ChatchatEdit": EDIT,
    "ChatchatDelete": DELETE,
    "ChatchatUpdate": UPDATE,
    "ChatchatModelKinds": KINDS,
    "ChatchatModelName": MODEL_NAME,
    "ChatchatModelChange": CHANGE,
    "ChatchatTemplate": TEMPLATE,
    "ChatchatTexts": TEXTS,
}
FORMS: dict[str, Schema] = {"ChatchatDocuments": DOCUMENTS, "ChatchatChatFiles": CHAT_FILES}
