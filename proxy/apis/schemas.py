"""JSON schemas of request bodies, for the OpenAPI document.

They are documentation: the parsers decide what is valid. `tests/unit/apis/test_schemas.py`
checks that each schema describes exactly the fields its parser reads, and that the parser accepts
each example. Sampler fields come from the table in `core.sampling`.
"""

from __future__ import annotations

from .batches import objects as batches
from .conversations import objects as conversations
from .embeddings import request as embeddings
from .embeddings.request import MAX_DOCUMENTS
from .files import objects as file_objects
from .litellm import schemas as litellm
from .llamacpp.native import FILENAME
from .openai import answer as openai
from .openai import completions as openai_completions
from .openai.answer import (
    ALTERNATIVES,
    LIKELIEST,
    LOGIT_BIAS,
    LOGPROBS,
    REPORT,
    SESSION,
    STOP,
    USER,
)
from .openai.answer import TEMPLATE as _TEMPLATE
from .openai.answer import tokens as _tokens
from .openai.completions import PROMPTS as PROMPT
from .openai.tools import CALLS, PARALLEL
from .openai.tools import EXAMPLE as TOOL
from .schema_fields import (
    COUNT,
    MODEL,
    OBJECT,
    SAMPLERS,
    STREAM,
    STRINGS,
    TEXT,
    USER_MESSAGE,
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
INPUTS = one_of(
    f"A string, a list of token ids, or up to {embeddings.MAX_INPUTS} of either.",
    "Hello!",
    TEXT,
    {"type": "array", "maxItems": embeddings.MAX_INPUTS},
)
DIMENSIONS = count(
    "Fewer dimensions than the model's require --embedding-shortens.",
    1,
    embeddings.MAX_DIMENSIONS,
    64,
)
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
_MESSAGES: dict[str, Schema] = {
    "model": MODEL,
    "messages": array("The conversation, as strings or blocks.", USER_MESSAGE),
    "max_tokens": _tokens("Maximum tokens of the answer.", 0),
    "system": one_of("The system prompt: a string or text blocks.", "Be brief.", SEARCHABLE),
    "temperature": SAMPLERS["temperature"],
    "top_k": SAMPLERS["top_k"],
    "top_p": SAMPLERS["top_p"],
    "stop_sequences": {**STOP, "description": "Stop strings."},
    "stream": STREAM,
    "tools": array("Tools the model may call.", []),
    "mcp_servers": array("MCP servers whose tools the gateway calls.", []),
    "tool_choice": mapping("`type` auto, any, none, or tool with a `name`.", {"type": "auto"}),
    "thinking": mapping(
        "`type` enabled or disabled; passed to the chat template.", {"type": "disabled"}
    ),
    "metadata": mapping("`user_id`.", {"user_id": "u"}),
    "context_management": mapping(
        "`edits` that clear old tool results and thoughts from the prompt, or sum up old turns.",
        {"edits": [{"type": "clear_tool_uses_20250919"}]},
    ),
    "output_config": mapping("`effort`, and `format` with a JSON schema.", {"effort": "low"}),
    "output_format": mapping(
        "A JSON schema, in the legacy field.", {"type": "json_schema", "schema": {"type": "object"}}
    ),
}
_OLLAMA: dict[str, Schema] = {
    "model": MODEL,
    "stream": {**STREAM, "default": True},
    "options": mapping("Sampler settings, `num_predict` and `stop`.", {"num_predict": 16}),
    "format": one_of("json, or a JSON schema.", "json", TEXT, OBJECT),
    "think": one_of("Passed to the chat template.", False, {"type": "boolean"}, TEXT),
    "logprobs": LOGPROBS,
    "top_logprobs": LIKELIEST,
}
_LLAMACPP: dict[str, Schema] = {
    "model": MODEL,
    "n_predict": _tokens("Maximum tokens; -1: limited by the context only.", -2),
    "n_cmpl": count("Number of completions.", 1, openai.MAX_CHOICES, 1),
    "n_probs": count("Number of alternatives for each token.", 0, 1000, 0),
    "stop": STOP,
    "stream": STREAM,
    "session": SESSION,
    "json_schema": mapping("A JSON schema for the answer.", {"type": "object"}),
    "logit_bias": LOGIT_BIAS,
    "image_data": array("Must be empty: send images to a chat endpoint.", []),
    "response_fields": strings("Return only these fields.", "content"),
    "return_tokens": flag("Return the ids of the tokens."),
    "post_sampling_probs": flag("Report probabilities after sampling."),
    "return_progress": REPORT["return_progress"],
    "timings_per_token": REPORT["timings_per_token"],
    **SAMPLERS,
}

# Keyed by the schema's name in the OpenAPI document.
BODIES: dict[str, Schema] = {
    "EmbeddingRequest": body(
        "input",
        model=MODEL,
        input=INPUTS,
        encoding_format=text("The encoding of vectors.", "float", enum=["float", "base64"]),
        dimensions=DIMENSIONS,
    ),
    "RerankRequest": body(
        "query documents",
        model=MODEL,
        query=text("The query to rank documents for."),
        documents=array(
            "Strings, or objects with a `text`.",
            ["a", {"text": "b"}],
            minItems=1,
            maxItems=MAX_DOCUMENTS,
        ),
        top_n=count("Number of documents to return.", 1, 1 << 30, 1),
        return_documents=flag("Return the documents' texts too."),
    ),
    "ResponseRequest": body(
        "input",
        model=MODEL,
        input=one_of("A string, or a list of items.", "Hello!", SEARCHABLE),
        instructions=text("A system message for this response only."),
        previous_response_id=text("The stored response that this one continues.", ""),
        conversation=one_of(
            "The conversation that this one continues: an id, or an object.", "conv_1", TEXT, OBJECT
        ),
        max_output_tokens=_tokens("Maximum tokens of the output.", 1),
        stop=STOP,
        logit_bias=LOGIT_BIAS,
        top_logprobs=ALTERNATIVES,
        stream=STREAM,
        background=flag("Run in the background; requires `store`, excludes `stream`."),
        store=flag("Store the response.", True),
        generate=flag("false: only evaluate the prompt, for the request that follows.", True),
        tools=array("Functions, custom tools, file_search, web_search, mcp.", []),
        tool_choice=one_of("auto, none, required, a tool, or allowed_tools.", "auto", TEXT, OBJECT),
        parallel_tool_calls=PARALLEL,
        max_tool_calls=CALLS,
        text=mapping("`format`: text, json_object or json_schema.", {"format": {"type": "text"}}),
        reasoning=mapping("`effort` is passed to the chat template.", {"effort": "low"}),
        truncation=text(
            "auto: leave out the oldest messages of a conversation that is too long.",
            "disabled",
            enum=["auto", "disabled"],
        ),
        include=strings("Additional parts of the output.", "file_search_call.results"),
        metadata=mapping("Repeated in the response.", {"a": "b"}),
        user=USER,
        safety_identifier=text("Repeated in the response."),
        prompt_cache_key=SESSION,
        chat_template_kwargs=_TEMPLATE,
        **REPORT,
        **SAMPLERS,
    ),
    "ConversationRequest": body(items=_ADDED, metadata=_METADATA),
    "ConversationChange": body("metadata", metadata=_METADATA),
    "ConversationItems": body("items", items=_ADDED),
    "CompactRequest": body(
        "model",
        model=MODEL,
        input=one_of("A string, or a list of items.", "Hello!", SEARCHABLE),
        instructions=text("A system message of the conversation."),
        previous_response_id=text("The stored response whose conversation is compacted.", ""),
        prompt_cache_key=SESSION,
    ),
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
    "MessageRequest": body("messages max_tokens", **_MESSAGES),
    "CountTokensRequest": body("messages", **_MESSAGES),
    "OllamaChatRequest": body(
        messages=array("The conversation.", USER_MESSAGE),
        tools=array("Functions the model may call.", [TOOL]),
        **_OLLAMA,
    ),
    "OllamaGenerateRequest": body(
        prompt=text("The prompt; rendered with the chat template unless raw."),
        suffix=text("The text after the completion.", ""),
        system=text("The system prompt."),
        raw=flag("Send the prompt without a chat template."),
        images=strings("Images in base64."),
        template=text("Must be empty: templates are configured in the gateway.", ""),
        context=array("Ignored with a warning: use /api/chat.", [], COUNT),
        **_OLLAMA,
    ),
    "OllamaShowRequest": body(
        model=text("The model's name. Here any name must be one that is served.", "any"),
        name=text("The same, in the older form.", "any"),
    ),
    "OllamaEmbedRequest": body("input", model=MODEL, input=INPUTS, dimensions=DIMENSIONS),
    "PromptEmbeddingRequest": body("prompt", model=MODEL, prompt=INPUTS),
    "GLMTokenizeRequest": body(
        "prompt",
        prompt=text("The text to split into tokens."),
        model=MODEL,
        max_length=_tokens("How many tokens to return.", 1),
    ),
    "TokenizeRequest": body(
        content=text("The text to split into tokens, 4 194 304 characters at most."),
        model=MODEL,
        add_special=flag("Add the tokens that begin and end a prompt."),
        with_pieces=flag("Return the text of each token too."),
    ),
    "DetokenizeRequest": body(
        tokens=array(
            "The ids of the tokens.",
            [1, 2],
            {**COUNT, "minimum": 0, "maximum": openai_completions.MAX_TOKEN_ID - 1},
        ),
        model=MODEL,
    ),
    "ModelActionRequest": body(
        "model", model=text("The name of a model that the gateway starts itself.", "any")
    ),
    "SlotFileRequest": body(
        "filename",
        filename=text(
            "A file in the server's --slot-save-path; not needed to erase.",
            "conversation-7.bin",
            pattern=FILENAME,
        ),
    ),
    "LlamaCompletionRequest": body("prompt", prompt=PROMPT, **_LLAMACPP),
    "LlamaInfillRequest": body(
        input_prefix=text("The text before the gap."),
        input_suffix=text("The text after the gap."),
        input_extra=array("Other files: `filename` and `text`.", []),
        prompt=text("The beginning of the text in the gap."),
        **_LLAMACPP,
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
