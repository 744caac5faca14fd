"""JSON schemas of request bodies, for the OpenAPI document.

They are documentation: the parsers decide what is valid. `tests/unit/apis/test_schemas.py`
checks that each schema describes exactly the fields its parser reads, and that the parser accepts
each example. Sampler fields come from the table in `core.sampling`.
"""

from __future__ import annotations

from .batches import objects as batches
from .conversations import objects as conversations
from .files import objects as file_objects
from .litellm import schemas as litellm
from .schema_fields import (
    STRINGS,
    TEXT,
    Schema,
    array,
    binary,
    body,
    count,
    flag,
    mapping,
    one_of,
    strings,
    text,
)
from .vector_stores import request as vector_stores

# -- shared parts ----------------------------------------------------------------------------------

ARRAY: Schema = {"type": "array"}
SEARCHABLE = {"anyOf": [TEXT, ARRAY]}
_PAIRS = {"maxProperties": vector_stores.MOST_PAIRS}
_METADATA = mapping("Up to 16 pairs of strings.", {"a": "b"}, **_PAIRS)
_ADDED = array(
    "Items, as in the `input` of a response.",
    [{"role": "user", "content": "Hello!"}],
    maxItems=conversations.MOST_ADDED,
)
_ATTRIBUTES = mapping(
    "Up to 16 strings, numbers or booleans, for filters.", {"year": 2001}, **_PAIRS
)
_NAME = text("The name of the vector store.", maxLength=vector_stores.LONGEST_NAME)
_EXPIRES = mapping("`anchor` last_active_at, and `days`.", {"anchor": "last_active_at", "days": 7})
_CHUNKING = mapping("`type` auto, or static with a size and an overlap.", {"type": "auto"})
_FILE_IDS = strings("Ids of uploaded files.", "file-1")
# Keyed by the schema's name in the OpenAPI document.
BODIES: dict[str, Schema] = {
    "ConversationRequest": body(items=_ADDED, metadata=_METADATA),
    "ConversationChange": body("metadata", metadata=_METADATA),
    "ConversationItems": body("items", items=_ADDED),
    "VectorStoreRequest": body(
        name=_NAME,
        description=text("A description."),
        metadata=_METADATA,
        expires_after=_EXPIRES,
        file_ids=_FILE_IDS,
        chunking_strategy=_CHUNKING,
    ),
    "VectorStoreChange": body(name=_NAME, metadata=_METADATA, expires_after=_EXPIRES),
    "VectorStoreSearch": body(
        "query",
        query=one_of("A string, or up to 16.", "zebra", TEXT, STRINGS),
        filters=mapping(
            "A comparison of attributes, or several joined by `and` or `or`.",
            {"type": "eq", "key": "a", "value": 1},
        ),
        max_num_results=count("Number of passages to return.", 1, vector_stores.MOST_RESULTS, 5),
        ranking_options=mapping("`ranker` and `score_threshold`.", {"score_threshold": 0.1}),
        rewrite_query=flag("Ignored: the query is not rewritten."),
    ),
    "VectorStoreFile": body(
        "file_id",
        file_id=text("An uploaded file.", "file-1"),
        attributes=_ATTRIBUTES,
        chunking_strategy=_CHUNKING,
    ),
    "VectorStoreFileAttributes": body("attributes", attributes=_ATTRIBUTES),
    "VectorStoreFileBatch": body(
        file_ids=_FILE_IDS,
        files=array("Files with their own attributes; cannot be combined with file_ids.", []),
        attributes=_ATTRIBUTES,
        chunking_strategy=_CHUNKING,
    ),
    "BatchRequest": body(
        "input_file_id endpoint completion_window",
        input_file_id=text("An uploaded file with the purpose batch.", "file-1"),
        endpoint=text(
            "The route that answers the lines.",
            "/v1/chat/completions",
            enum=list(batches.ENDPOINTS),
        ),
        completion_window=text("How long the batch may take: 24h, 90m, up to 30d.", "24h"),
        metadata=_METADATA,
        output_expires_after=mapping(
            "When the output files are deleted.", {"anchor": "created_at", "seconds": 86_400}
        ),
    ),
    "McpMessage": body(
        "jsonrpc",
        jsonrpc=text("Always 2.0.", "2.0"),
        id=one_of("Names a request; a notification has none.", 1, TEXT, {"type": "integer"}),
        method=text("initialize, ping, tools/list, tools/call, or a notification.", "tools/list"),
        params=mapping("The parameters of the method.", {}),
        result=mapping("The result of a request of the server, which makes none.", {}),
        error=mapping("The error of a request of the server, which makes none.", {}),
    ),
    "ForwardedRequest": body(
        "model",
        model=text("The model; the other fields are those of its server.", "whisper"),
    ),
    **litellm.BODIES,
}
# The same for multipart forms.
FORMS: dict[str, Schema] = {
    "FileUploadForm": body(
        "file purpose",
        file=binary("The file."),
        purpose=text(
            "What the file is for.", file_objects.PURPOSES[0], enum=list(file_objects.PURPOSES)
        ),
        **{
            "expires_after[anchor]": text(
                "Needed beside expires_after[seconds].", "created_at", enum=["created_at"]
            ),
            "expires_after[seconds]": count(
                "The file is deleted after this time.",
                file_objects.SOONEST,
                file_objects.LATEST,
                file_objects.SOONEST,
            ),
        },
    ),
}
