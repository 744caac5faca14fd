"""JSON schemas of the bodies, forms and errors of Langchain-Chatchat's API."""

from __future__ import annotations

from ..openai.answer import MAX_TOKENS
from ..schema_fields import (
    COUNT,
    MODEL,
    OBJECT,
    SAMPLERS,
    STREAM,
    TEXT,
    Schema,
    array,
    binary,
    body,
    count,
    flag,
    mapping,
    number,
    object_of,
    one_of,
    strings,
    text,
)
from . import bases, params
from .params import LOCAL

_ANSWER: dict[str, Schema] = {
    "model_name": MODEL,
    "stream": STREAM,
    "temperature": {**SAMPLERS["temperature"], "default": params.TEMPERATURE},
    "max_tokens": count(
        "Maximum tokens of the answer; 0 or less: limited by the context only.",
        -MAX_TOKENS,
        MAX_TOKENS,
        16,
    ),
}
_CHAT: dict[str, Schema] = {
    "query": text("The question.", "Hello!"),
    "history": one_of(
        "The conversation so far: objects with `role` and `content`, or pairs.",
        [{"role": "user", "content": "Hi"}],
        {"type": "array"},
        {"type": "integer"},
    ),
    **_ANSWER,
    "prompt_name": text("A template of this kind of dialogue.", "default"),
}
_HITS: dict[str, Schema] = {
    "top_k": count("How many passages to use.", 1, params.MOST_HITS, params.TOP_K),
    "score_threshold": number(
        "The largest distance of a passage; 2: any.", 0, params.FARTHEST, params.SCORE_THRESHOLD
    ),
}
_BASE = text("The name or id of a knowledge base.", "samples", maxLength=bases.MAX_NAME)
_MODEL = text("An embedding model of the gateway; any other means the default.", "any")
_FILE = binary("A file; may be repeated.")
_FILES = strings("Names of documents.", "rules.md")
_CUT: dict[str, Schema] = {
    "chunk_size": count("Characters of a chunk.", 1, bases.MAX_CHUNK, bases.CHUNK_SIZE),
    "chunk_overlap": count(
        "Characters that two chunks share.", 0, bases.MAX_CHUNK, bases.CHUNK_OVERLAP
    ),
}


def _of_base(**fields: Schema) -> Schema:
    """A body about one knowledge base."""
    return body("knowledge_base_name", knowledge_base_name=_BASE, **fields)


ALL: dict[str, Schema] = {
    # Dialogues
    "ChatchatChatRequest": body("query", **_CHAT),
    "ChatchatMessagesRequest": body(
        "messages",
        messages=array("The conversation.", [{"role": "user", "content": "Hello!"}]),
        model=MODEL,
        stream=STREAM,
        temperature={**SAMPLERS["temperature"], "default": params.MODIFIED["temperature"]},
        top_p={**SAMPLERS["top_p"], "default": params.MODIFIED["top_p"]},
        max_tokens=_ANSWER["max_tokens"],
    ),
    "ChatchatKnowledgeChatRequest": body(
        "query knowledge_base_name", knowledge_base_name=_BASE, **_CHAT, **_HITS
    ),
    "ChatchatFileChatRequest": body(
        "query knowledge_id",
        knowledge_id=text("The id that the upload of the files returned.", "samples"),
        **_CHAT,
        **_HITS,
    ),
    "ChatchatSearchChatRequest": body(
        "query search_engine_name",
        search_engine_name=text("A search engine of the gateway.", "searxng"),
        top_k=count("How many pages to use.", 1, params.MOST_HITS, params.TOP_K),
        split_result=flag("Use the passages of long pages that fit the question."),
        **_CHAT,
    ),
    "ChatchatCompletionRequest": body(
        "query",
        query=text("The text to continue.", "Once upon a time"),
        echo=flag("Repeat the text before the answer."),
        **_ANSWER,
        prompt_name=text("A template of the folder `completion`.", "default"),
    ),
    "ChatchatFeedback": body(
        chat_history_id=text("The id of the answer.", "0" * 32),
        message_id=text("The same, as later clients call it.", "0" * 32),
        score=count("The rating.", 0, 100, 100),
        reason=text("The reason for it."),
    ),
    # Knowledge bases
    "ChatchatBase": _of_base(),
    "ChatchatNewBase": _of_base(embed_model=_MODEL),
    "ChatchatBaseInfo": _of_base(kb_info=text("The description.")),
    "ChatchatRebuild": _of_base(
        allow_empty_kb=flag("Create a base that does not exist.", True),
        embed_model=_MODEL,
        **_CUT,
    ),
    "ChatchatSearch": _of_base(
        query=text("The question. Without it, the chunks of `file_name` are listed.", "boats"),
        file_name=text("A document.", "rules.md"),
        metadata=mapping("`source`: the same, in another place.", {"source": "rules.md"}),
        **_HITS,
    ),
    "ChatchatEdit": _of_base(
        docs=mapping(
            "By the id of a chunk, an object with its new `page_content`; null or an empty text"
            " deletes it.",
            {"1": {"page_content": "Boats may stay for ten days."}},
        ),
    ),
    "ChatchatDelete": _of_base(
        file_names=_FILES,
        delete_content=flag("Delete the files too, and not only their chunks."),
    ),
    "ChatchatUpdate": _of_base(
        file_names=_FILES,
        **_CUT,
        docs=one_of(
            "Chunks to store instead of reading the file: by its name, objects with"
            " `page_content`. As an object, or as JSON in a string.",
            {"rules.md": [{"page_content": "Boats may stay for nine days."}]},
            OBJECT,
            TEXT,
        ),
    ),
    # Models and the server
    "ChatchatModelKinds": body(types=strings("Kinds of models; `local` are those here.", LOCAL)),
    "ChatchatModelName": body(model_name=text("The model's name.", "any")),
    "ChatchatModelChange": body(
        "new_model_name",
        model_name=text("Ignored: no model is stopped.", "any"),
        new_model_name=text("The model to use from now on.", "any"),
    ),
    "ChatchatTemplate": body(
        type=text("A kind of dialogue.", "llm_chat", enum=list(params.FOLDERS.values())),
        name=text("The name of the template.", "default"),
    ),
    "ChatchatTexts": body(
        "texts",
        texts=strings("The texts to embed.", "Hello!", minItems=1),
        embed_model=MODEL,
        to_query=flag("The texts are questions."),
    ),
    # Forms
    "ChatchatDocuments": _of_base(
        files=_FILE,
        override=flag("Replace documents of the same name."),
        to_vector_store=flag("Index the documents.", True),
        **_CUT,
        docs=text("Chunks to store instead of reading a file, as JSON.", "{}"),
    ),
    "ChatchatChatFiles": body(
        files=_FILE,
        knowledge_id=text("The id of an earlier upload that these files join.", ""),
        prev_id=text("The same, as earlier clients call it.", ""),
        **_CUT,
    ),
    "ChatchatError": object_of("code msg data", code=COUNT, msg=TEXT, data={}),
}
