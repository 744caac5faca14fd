"""GET /openapi.json: an OpenAPI 3.1 document of all API routes.

Paths and methods come from the application's URL map, schemas from `dialects`; the tables below add
the rest. A test fails for a route without a row, or a row without a route. Routes that only the
pages use are left out, since they may change with any version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from flask import Blueprint, Flask, Response, current_app
from werkzeug.routing import Map, Rule

from .. import __version__
from ..dialects.answer_schemas import ANSWERS
from ..dialects.schemas import BODIES, FORMS
from .services import current_services

blueprint = Blueprint("reference", __name__)

KEPT = "slotproxy.openapi"  # key of the finished document in app.extensions
METHODS = ("get", "post", "put", "delete")
SSE, LINES = "text/event-stream", "application/x-ndjson"
OPENAI, ANTHROPIC, OLLAMA, GLM = "OpenAI", "Anthropic", "Ollama", "GLM"
LLAMACPP, CHATCHAT, OURS, PAGES = "llama.cpp", "Langchain-Chatchat", "slotproxy", "Pages"
RANKINGS = "Rankings"
NO_KEY = frozenset({"status.ready", "status.live", "reference.document"})


class Operation(NamedTuple):
    """`body` names the schema of a body or form, `other` that of an alternative body. `streams` is
    the media type of the streamed answer."""

    tag: str
    summary: str
    body: str = ""
    streams: str = ""
    answer: str = "application/json"
    other: str = ""


# By endpoint, or by method and endpoint if the endpoint has several methods.
OPERATIONS: Mapping[str, Operation] = {
    "openai.chat_completions": Operation(
        OPENAI, "A chat, streamed or whole", "ChatCompletionRequest", SSE
    ),
    "openai.input_tokens": Operation(
        OPENAI, "How many tokens the prompt of a chat has", "ChatCompletionRequest"
    ),
    "openai.completions": Operation(
        OPENAI, "A text completion, streamed or whole", "CompletionRequest", SSE
    ),
    "openai.both_completions": Operation(
        LLAMACPP,
        "A text completion with OpenAI's and llama.cpp's fields",
        "CompletionRequestBoth",
        SSE,
    ),
    "openai.models": Operation(OPENAI, "The models served; in Anthropic's form for its clients"),
    "openai.model": Operation(OPENAI, "One model"),
    "openai.tokenize": Operation(
        LLAMACPP,
        "Tokens of a text, in llama-server's form or GLM's",
        "TokenizeRequest",
        other="GLMTokenizeRequest",
    ),
    "openai.detokenize": Operation(LLAMACPP, "The text of tokens", "DetokenizeRequest"),
    "embeddings.openai_": Operation(OPENAI, "Vectors of texts or tokens", "EmbeddingRequest"),
    "embeddings.ollama_": Operation(OLLAMA, "Vectors of texts", "OllamaEmbedRequest"),
    "embeddings.ollama_older": Operation(
        OLLAMA, "A vector, in the older form", "PromptEmbeddingRequest"
    ),
    "embeddings.glm_": Operation(GLM, "A vector", "PromptEmbeddingRequest"),
    "embeddings.ranked": Operation(
        RANKINGS, "Documents ranked for a query, in Jina's and Cohere's form", "RerankRequest"
    ),
    "responses.create": Operation(
        OPENAI, "A response, streamed, whole, or in the background", "ResponseRequest", SSE
    ),
    "responses.read": Operation(OPENAI, "A stored response"),
    "responses.delete": Operation(OPENAI, "Delete a stored response"),
    "responses.cancel": Operation(OPENAI, "Cancel a response that runs in the background"),
    "responses.input_items": Operation(OPENAI, "The input of a stored response"),
    "responses.input_tokens": Operation(OPENAI, "How many tokens an input has", "ResponseRequest"),
    "files.upload": Operation(OPENAI, "Upload a file", "FileUploadForm"),
    "files.listed": Operation(OPENAI, "The files of the key"),
    "files.read": Operation(OPENAI, "One file"),
    "files.delete": Operation(OPENAI, "Delete a file"),
    "files.content": Operation(OPENAI, "The bytes of a file", answer="application/octet-stream"),
    "vector_stores.create": Operation(OPENAI, "A new vector store", "VectorStoreRequest"),
    "vector_stores.listed": Operation(OPENAI, "The vector stores of the key"),
    "vector_stores.read": Operation(OPENAI, "One vector store"),
    "vector_stores.change": Operation(OPENAI, "Change a vector store", "VectorStoreChange"),
    "vector_stores.delete": Operation(OPENAI, "Delete a vector store"),
    "vector_stores.search": Operation(OPENAI, "Passages that fit a query", "VectorStoreSearch"),
    "vector_stores.attach": Operation(OPENAI, "Add an uploaded file", "VectorStoreFile"),
    "vector_stores.files": Operation(OPENAI, "The files of a vector store"),
    "vector_stores.file": Operation(OPENAI, "A file of a vector store"),
    "vector_stores.describe": Operation(
        OPENAI, "Change the attributes of a file", "VectorStoreFileAttributes"
    ),
    "vector_stores.detach": Operation(OPENAI, "Remove a file from a vector store"),
    "vector_stores.content": Operation(OPENAI, "The text of a file"),
    "vector_stores.begin": Operation(OPENAI, "Add several files", "VectorStoreFileBatch"),
    "vector_stores.batch": Operation(OPENAI, "How far a batch of files is"),
    "vector_stores.cancel": Operation(OPENAI, "Cancel a batch of files"),
    "vector_stores.batch_files": Operation(OPENAI, "The files of a batch"),
    "anthropic.messages": Operation(
        ANTHROPIC, "A message, streamed or whole", "MessageRequest", SSE
    ),
    "anthropic.count_tokens": Operation(
        ANTHROPIC, "How many tokens an input has", "CountTokensRequest"
    ),
    "ollama.chat_": Operation(
        OLLAMA, "A chat, streamed unless `stream` is false", "OllamaChatRequest", LINES
    ),
    "ollama.generate_": Operation(
        OLLAMA, "A completion, streamed unless `stream` is false", "OllamaGenerateRequest", LINES
    ),
    "ollama.version": Operation(OLLAMA, "The version of Ollama that is spoken here"),
    "ollama.tags": Operation(OLLAMA, "The models served"),
    "ollama.running": Operation(OLLAMA, "The models that are loaded"),
    "ollama.show": Operation(OLLAMA, "One model", "OllamaShowRequest"),
    "ollama.not_ours": Operation(
        OLLAMA, "Always 400: models are chosen where the backends are started"
    ),
    "glm.chat": Operation(GLM, "A chat", "GLMChatRequest"),
    "glm.chat_stream": Operation(GLM, "A chat, streamed", "GLMChatRequest", SSE),
    "glm.langchain": Operation(GLM, "A chat, as chatglm.cpp's langchain server", "GLMChatRequest"),
    "native.completion": Operation(
        LLAMACPP, "A completion, streamed or whole", "LlamaCompletionRequest", SSE
    ),
    "native.infill": Operation(
        LLAMACPP, "Code completion, streamed or whole", "LlamaInfillRequest", SSE
    ),
    "native.apply_template": Operation(LLAMACPP, "The prompt of a chat", "ChatCompletionRequest"),
    "native.props": Operation(LLAMACPP, "What the backend is, and what it samples by"),
    "native.slots": Operation(LLAMACPP, "The slots of all backends"),
    "native.slot_action": Operation(
        LLAMACPP,
        "Save, restore or erase a slot, by the query's `action`; for the keys of `--admins`",
        "SlotFileRequest",
    ),
    "native.cors_proxy": Operation(LLAMACPP, "Always 403: nothing is fetched for a page"),
    "status.ready": Operation(OURS, "200 when a backend can answer"),
    "status.live": Operation(OURS, "200 while the process answers"),
    "status.backends": Operation(OURS, "What is known of each backend"),
    "status.metrics": Operation(
        OURS, "Metrics for Prometheus, with `--metrics`", answer="text/plain"
    ),
    "status.slots": Operation(OURS, "Slots, the queue, and how often something was cached"),
    "data.export": Operation(OURS, "Export everything kept for the caller's key"),
    "data.delete": Operation(OURS, "Delete everything kept for the caller's key"),
    "reference.document": Operation(OURS, "This document"),
    "chatchat.chats.chat": Operation(
        CHATCHAT, "A chat", "ChatchatChatRequest", SSE, other="ChatchatMessagesRequest"
    ),
    "chatchat.chats.fastchat": Operation(
        CHATCHAT,
        "A chat whose answer is plain text",
        "ChatchatChatRequest",
        SSE,
        other="ChatchatMessagesRequest",
    ),
    "chatchat.chats.knowledge_base_chat": Operation(
        CHATCHAT, "A chat about a knowledge base", "ChatchatKnowledgeChatRequest", SSE
    ),
    "chatchat.chats.file_chat": Operation(
        CHATCHAT, "A chat about uploaded files", "ChatchatFileChatRequest", SSE
    ),
    "chatchat.chats.search_engine_chat": Operation(
        CHATCHAT, "A chat with web search", "ChatchatSearchChatRequest", SSE
    ),
    "chatchat.chats.agent_chat": Operation(
        CHATCHAT, "A chat with tools", "ChatchatChatRequest", SSE
    ),
    "chatchat.chats.completion": Operation(
        CHATCHAT, "A completion", "ChatchatCompletionRequest", SSE
    ),
    "chatchat.chats.feedback": Operation(CHATCHAT, "Feedback on an answer", "ChatchatFeedback"),
    "chatchat.bases.listed": Operation(CHATCHAT, "The knowledge bases"),
    "chatchat.bases.create": Operation(CHATCHAT, "Create a knowledge base", "ChatchatNewBase"),
    "chatchat.bases.delete": Operation(
        CHATCHAT,
        "Delete a knowledge base; the body may also be its name as a JSON string",
        "ChatchatBase",
    ),
    "chatchat.bases.update_info": Operation(
        CHATCHAT, "Describe a knowledge base", "ChatchatBaseInfo"
    ),
    "chatchat.bases.recreate": Operation(
        CHATCHAT, "Read all documents again", "ChatchatRebuild", SSE
    ),
    "chatchat.bases.search": Operation(CHATCHAT, "Passages that fit a query", "ChatchatSearch"),
    "chatchat.bases.edit": Operation(CHATCHAT, "Change chunks", "ChatchatEdit"),
    "chatchat.files.listed": Operation(CHATCHAT, "The documents of a base"),
    "chatchat.files.download": Operation(
        CHATCHAT, "A document as it came", answer="application/octet-stream"
    ),
    "chatchat.files.upload": Operation(CHATCHAT, "Upload documents", "ChatchatDocuments"),
    "chatchat.files.upload_temporary": Operation(
        CHATCHAT, "Upload documents for a chat about files", "ChatchatChatFiles"
    ),
    "chatchat.files.update": Operation(CHATCHAT, "Read documents again", "ChatchatUpdate"),
    "chatchat.files.delete": Operation(CHATCHAT, "Delete documents", "ChatchatDelete"),
    "chatchat.server.running": Operation(CHATCHAT, "The models served"),
    "chatchat.server.configured": Operation(
        CHATCHAT, "The models configured", "ChatchatModelKinds"
    ),
    "chatchat.server.config": Operation(CHATCHAT, "One model", "ChatchatModelName"),
    "chatchat.server.change": Operation(CHATCHAT, "Change the model", "ChatchatModelChange"),
    "chatchat.server.stop": Operation(
        CHATCHAT, "Always 400: models are chosen where the gateway is started", "ChatchatModelName"
    ),
    "chatchat.server.configs": Operation(CHATCHAT, "The settings"),
    "chatchat.server.engines": Operation(CHATCHAT, "The search engines"),
    "chatchat.server.prompt_template": Operation(CHATCHAT, "A prompt template", "ChatchatTemplate"),
    "chatchat.server.embed_texts": Operation(CHATCHAT, "Vectors of texts", "ChatchatTexts"),
}
# The schema of a complete answer, by endpoint.
REPLIES: Mapping[str, str] = {
    "openai.chat_completions": "ChatCompletion",
    "openai.completions": "Completion",
    "openai.both_completions": "CompletionBoth",
    "responses.create": "Response",
    "responses.read": "Response",
    "responses.cancel": "Response",
    "anthropic.messages": "Message",
    "ollama.chat_": "OllamaChat",
    "ollama.generate_": "OllamaGenerate",
    "glm.chat": "GLMChat",
    "native.completion": "LlamaCompletion",
    "native.infill": "LlamaCompletion",
}
# Blueprints of pages and their scripts, which are not documented.
PAGE_BLUEPRINTS = frozenset(
    {
        "chat",
        "chat_files",
        "chat_images",
        "options",
        "pages",
        "panel_knowledge",
        "panel_status",
        "session",
    }
)

ERRORS: Mapping[str, dict[str, Any]] = {
    OPENAI: {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "integer", "null"]},
                },
                "required": ["message", "type"],
            }
        },
        "required": ["error"],
    },
    ANTHROPIC: {
        "type": "object",
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
                "required": ["type", "message"],
            },
        },
        "required": ["type", "error"],
    },
    OLLAMA: {
        "type": "object",
        "properties": {"error": {"type": "string"}},
        "required": ["error"],
    },
    GLM: {
        "type": "object",
        "properties": {"detail": {"type": "string"}},
        "required": ["detail"],
    },
    CHATCHAT: {
        "type": "object",
        "properties": {"code": {"type": "integer"}, "msg": {"type": "string"}, "data": {}},
        "required": ["code", "msg", "data"],
    },
}
NAMES = {
    OPENAI: "Error",
    ANTHROPIC: "AnthropicError",
    OLLAMA: "OllamaError",
    GLM: "GLMError",
    CHATCHAT: "ChatchatError",
}


def documented(rules: Map) -> Iterator[tuple[Rule, str]]:
    """Yield the rules of the documented APIs with each of their methods."""
    for rule in sorted(rules.iter_rules(), key=lambda one: one.rule):
        if rule.endpoint.partition(".")[0] in PAGE_BLUEPRINTS or "." not in rule.endpoint:
            continue
        for method in METHODS:
            if method.upper() in (rule.methods or ()):
                yield rule, method


def make(app: Flask, prefix: str, keys: bool) -> dict[str, Any]:
    """Build the document for this application; `prefix` precedes all paths, `keys` says whether
    requests need an API key."""
    paths: dict[str, dict[str, Any]] = {}
    for rule, method in documented(app.url_map):
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule.removeprefix(prefix))
        paths.setdefault(path, {})[method] = _operation(rule, method, path, keys)
    schemas = {
        **BODIES,
        **FORMS,
        **ANSWERS,
        **{NAMES[tag]: schema for tag, schema in ERRORS.items()},
    }
    key = {
        "key": {"type": "http", "scheme": "bearer"},
        "x_api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "slotproxy",
            "version": __version__,
            "description": "A gateway in front of llama.cpp, PowerInfer and ChatGLM servers.",
        },
        "servers": [{"url": prefix or "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(one.tag for one in OPERATIONS.values())],
        "paths": paths,
        "components": {"schemas": schemas, **({"securitySchemes": key} if keys else {})},
        **({"security": [{"key": []}, {"x_api_key": []}]} if keys else {}),
    }


def _operation(rule: Rule, method: str, path: str, keys: bool) -> dict[str, Any]:
    operation = OPERATIONS[rule.endpoint]
    slug = re.sub(r"\W+", "_", path).strip("_")
    answers: dict[str, Any] = {operation.answer: {}}
    if rule.endpoint in REPLIES:
        answers[operation.answer] = {"schema": _ref(REPLIES[rule.endpoint])}
    if operation.streams:
        answers[operation.streams] = {}
    error = _ref(NAMES.get(operation.tag, "Error"))
    made: dict[str, Any] = {
        "operationId": f"{method}_{slug}",
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": {
            "200": {"description": "OK", "content": answers},
            "default": {
                "description": "An error",
                "content": {"application/json": {"schema": error}},
            },
        },
    }
    names = re.findall(r"{(\w+)}", path)
    if names:
        made["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if operation.body and method != "get":
        made["requestBody"] = _body(operation)
    if keys and rule.endpoint in NO_KEY:
        made["security"] = []
    return made


def _body(operation: Operation) -> dict[str, Any]:
    if operation.body in FORMS:
        return {"content": {"multipart/form-data": {"schema": _ref(operation.body)}}}
    schema = _ref(operation.body)
    if operation.other:
        schema = {"anyOf": [schema, _ref(operation.other)]}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


@blueprint.get("/openapi.json")
def document() -> Response:
    kept = current_app.extensions
    if KEPT not in kept:
        settings = current_services().settings
        made = make(current_app, settings.api_prefix, bool(settings.keys))
        kept[KEPT] = msgspec.json.encode(made)
    return Response(kept[KEPT], content_type="application/json")
