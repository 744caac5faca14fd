"""GET /openapi.json: an OpenAPI 3.1 document of all API routes.

Paths and methods come from the application's URL map, schemas from `apis`; the tables below add
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
from ..apis.answer_schemas import ANSWERS, ERRORS
from ..apis.schemas import BODIES, FORMS
from .apis import PAGE_BLUEPRINTS
from .services import current_services

blueprint = Blueprint("reference", __name__)

KEPT = "slotproxy.openapi"  # key of the finished document in app.extensions
METHODS = ("get", "post", "put", "patch", "delete")
SSE, LINES = "text/event-stream", "application/x-ndjson"
ANY = "*/*"
OPENAI, ANTHROPIC, OLLAMA, GLM = "OpenAI", "Anthropic", "Ollama", "GLM"
LLAMACPP, CHATCHAT, OURS, PAGES = "llama.cpp", "Langchain-Chatchat", "slotproxy", "Pages"
RANKINGS, LITELLM, MCP = "Rankings", "LiteLLM", "MCP"
NO_KEY = frozenset({"status.ready", "status.live", "reference.document"})


class Operation(NamedTuple):
    """`body` names the schema of a body or form, `other` that of an alternative body. `streams` is
    the media type of the streamed answer. `empty` describes the answers without a body, by status;
    `answer` is "" if there is no other. `foreign`: errors are those of a model's server, of any
    media type. `tag` is filled in from the table."""

    summary: str
    body: str = ""
    streams: str = ""
    answer: str = "application/json"
    other: str = ""
    empty: Mapping[str, str] = {}
    foreign: bool = False
    tag: str = ""


# By tag and blueprint.
_OPERATIONS: Mapping[tuple[str, str], Mapping[str, Operation]] = {
    (OPENAI, "openai"): {
        "chat_completions": Operation("A chat, streamed or whole", "ChatCompletionRequest", SSE),
        "input_tokens": Operation(
            "How many tokens the prompt of a chat has", "ChatCompletionRequest"
        ),
        "completions": Operation("A text completion, streamed or whole", "CompletionRequest", SSE),
        "models": Operation("The models served; in Anthropic's form for its clients"),
        "model": Operation("One model"),
    },
    (LLAMACPP, "openai"): {
        "both_completions": Operation(
            "A text completion with OpenAI's and llama.cpp's fields", "CompletionRequestBoth", SSE
        ),
        "tokenize": Operation(
            "Tokens of a text, in llama-server's form or GLM's",
            "TokenizeRequest",
            other="GLMTokenizeRequest",
        ),
        "detokenize": Operation("The text of tokens", "DetokenizeRequest"),
    },
    (OPENAI, "embeddings"): {
        "openai_": Operation("Vectors of texts or tokens", "EmbeddingRequest"),
    },
    (OLLAMA, "embeddings"): {
        "ollama_": Operation("Vectors of texts", "OllamaEmbedRequest"),
        "ollama_older": Operation("A vector, in the older form", "PromptEmbeddingRequest"),
    },
    (GLM, "embeddings"): {
        "glm_": Operation("A vector", "PromptEmbeddingRequest"),
    },
    (RANKINGS, "embeddings"): {
        "ranked": Operation(
            "Documents ranked for a query, in Jina's and Cohere's form", "RerankRequest"
        ),
    },
    (OPENAI, "forwarding"): {
        "posted": Operation(
            "Forwarded to the server of the model: audio and images, as JSON or a form",
            "ForwardedRequest",
            answer=ANY,
            foreign=True,
        ),
        "listed": Operation(
            "Forwarded to the server of the model that the query names", answer=ANY, foreign=True
        ),
    },
    (OURS, "forwarding"): {
        "upstream": Operation(
            "Forwarded to any path of the server of a model that the gateway starts; for the keys"
            " of `--admins`",
            answer=ANY,
            foreign=True,
        ),
    },
    (MCP, "mcp"): {
        "answer": Operation(
            "A message of the Model Context Protocol, over streamable HTTP",
            "McpMessage",
            SSE,
            empty={"202": "A notification or an answer was accepted"},
        ),
        "end": Operation(
            "Ends a session of the Model Context Protocol: its calls are cancelled",
            answer="",
            empty={"204": "The session was ended"},
        ),
    },
    (OPENAI, "responses"): {
        "create": Operation(
            "A response, streamed, whole, or in the background", "ResponseRequest", SSE
        ),
        "compact": Operation("A conversation summed up by the model", "CompactRequest"),
        "read": Operation("A stored response"),
        "delete": Operation("Delete a stored response"),
        "cancel": Operation("Cancel a response that runs in the background"),
        "input_items": Operation("The input of a stored response"),
        "input_tokens": Operation("How many tokens an input has", "ResponseRequest"),
    },
    (OPENAI, "conversations"): {
        "create": Operation("A new conversation", "ConversationRequest"),
        "read": Operation("One conversation"),
        "change": Operation("Change the metadata of a conversation", "ConversationChange"),
        "delete": Operation("Delete a conversation with its items"),
        "add": Operation("Add items to a conversation", "ConversationItems"),
        "listed": Operation("The items of a conversation"),
        "read_item": Operation("An item of a conversation"),
        "delete_item": Operation("Delete an item of a conversation"),
    },
    (OPENAI, "files"): {
        "upload": Operation("Upload a file", "FileUploadForm"),
        "listed": Operation("The files of the key"),
        "read": Operation("One file"),
        "delete": Operation("Delete a file"),
        "content": Operation("The bytes of a file", answer="application/octet-stream"),
    },
    (OPENAI, "batches"): {
        "create": Operation("A batch of requests from an uploaded file", "BatchRequest"),
        "listed": Operation("The batches of the key"),
        "read": Operation("How far a batch is"),
        "cancel": Operation("Cancel a batch"),
    },
    (OPENAI, "vector_stores"): {
        "create": Operation("A new vector store", "VectorStoreRequest"),
        "listed": Operation("The vector stores of the key"),
        "read": Operation("One vector store"),
        "change": Operation("Change a vector store", "VectorStoreChange"),
        "delete": Operation("Delete a vector store"),
        "search": Operation("Passages that fit a query", "VectorStoreSearch"),
        "attach": Operation("Add an uploaded file", "VectorStoreFile"),
        "files": Operation("The files of a vector store"),
        "file": Operation("A file of a vector store"),
        "describe": Operation("Change the attributes of a file", "VectorStoreFileAttributes"),
        "detach": Operation("Remove a file from a vector store"),
        "content": Operation("The text of a file"),
        "begin": Operation("Add several files", "VectorStoreFileBatch"),
        "batch": Operation("How far a batch of files is"),
        "cancel": Operation("Cancel a batch of files"),
        "batch_files": Operation("The files of a batch"),
    },
    (ANTHROPIC, "anthropic"): {
        "messages": Operation("A message, streamed or whole", "MessageRequest", SSE),
        "count_tokens": Operation("How many tokens an input has", "CountTokensRequest"),
    },
    (OLLAMA, "ollama"): {
        "chat_": Operation("A chat, streamed unless `stream` is false", "OllamaChatRequest", LINES),
        "generate_": Operation(
            "A completion, streamed unless `stream` is false", "OllamaGenerateRequest", LINES
        ),
        "version": Operation("The version of Ollama that is spoken here"),
        "tags": Operation("The models served"),
        "running": Operation("The models that are loaded"),
        "show": Operation("One model", "OllamaShowRequest"),
        "not_ours": Operation("Always 400: models are chosen where the backends are started"),
    },
    (GLM, "glm"): {
        "chat": Operation("A chat", "GLMChatRequest"),
        "chat_stream": Operation("A chat, streamed", "GLMChatRequest", SSE),
        "langchain": Operation("A chat, as chatglm.cpp's langchain server", "GLMChatRequest"),
    },
    (LLAMACPP, "native"): {
        "completion": Operation("A completion, streamed or whole", "LlamaCompletionRequest", SSE),
        "infill": Operation("Code completion, streamed or whole", "LlamaInfillRequest", SSE),
        "apply_template": Operation("The prompt of a chat", "ChatCompletionRequest"),
        "props": Operation("What the backend is, and what it samples by"),
        "slots": Operation("The slots of all backends"),
        "slot_action": Operation(
            "Save, restore or erase a slot, by the query's `action`; for the keys of `--admins`",
            "SlotFileRequest",
        ),
        "cors_proxy": Operation("Always 403: nothing is fetched for a page"),
    },
    (OURS, "status"): {
        "ready": Operation("200 when a backend can answer"),
        "live": Operation("200 while the process answers"),
        "backends": Operation("What is known of each backend"),
        "metrics": Operation("Metrics for Prometheus, with `--metrics`", answer="text/plain"),
        "slots": Operation("Slots, the queue, and how often something was cached"),
    },
    (LLAMACPP, "hosting"): {
        "load": Operation(
            "Begin to load a model that the gateway starts; for the keys of `--admins`",
            "ModelActionRequest",
        ),
        "unload": Operation(
            "Unload a model after its running answers; for the keys of `--admins`",
            "ModelActionRequest",
        ),
        "events": Operation("The changes of models, and the progress of loads", answer=SSE),
    },
    (OURS, "hosting"): {
        "running": Operation("The loaded models of those that the gateway starts, as llama-swap"),
        "unload_all": Operation(
            "Unload all models after their running answers; for the keys of `--admins`"
        ),
        "pin": Operation(
            "Let a model give way to no other, until slotproxy restarts; for the keys of"
            " `--admins`",
            "ModelActionRequest",
        ),
        "unpin": Operation(
            "Let a model give way to others again; for the keys of `--admins`",
            "ModelActionRequest",
        ),
        "logs": Operation(
            "What the server of a model printed last, and with `Accept: text/event-stream` what"
            " follows; for the keys of `--admins`",
            answer="text/plain",
        ),
    },
    (OURS, "data"): {
        "export": Operation("Export everything kept for the caller's key"),
        "delete": Operation("Delete everything kept for the caller's key"),
    },
    (OURS, "usage"): {
        "own": Operation(
            "Requests, tokens and times of the caller's key by day; with `scope=all`, of all keys"
        ),
        "export": Operation(
            "The ledger of the caller's key as CSV or JSON lines, by the query's `format`",
            answer="text/csv",
        ),
    },
    (OURS, "accounts"): {
        "list_changes": Operation(
            "Who changed which key, user or team; by `subject`, `before` and `limit`; for"
            " administrators"
        ),
    },
    (LITELLM, "accounts"): {
        "generate_key": Operation("Make an API key; for administrators", "GenerateKeyRequest"),
        "key_info": Operation("One API key; without `key`, the caller's own"),
        "list_keys": Operation("The API keys in the store; for administrators"),
        "update_key": Operation("Change an API key; for administrators", "UpdateKeyRequest"),
        "regenerate_key": Operation(
            "A new secret for an API key; for administrators", "RegenerateKeyRequest"
        ),
        "regenerate_named": Operation("The same, with the key in the path", "RegenerateNamedKey"),
        "block_key": Operation("Block an API key; for administrators", "BlockKeyRequest"),
        "unblock_key": Operation("Unblock an API key; for administrators", "BlockKeyRequest"),
        "delete_keys": Operation("Delete API keys; for administrators", "DeleteKeysRequest"),
        "spend_logs": Operation(
            "What was used by day, or the requests; for others than administrators, the caller's"
        ),
        "spend_report": Operation("What teams or keys used; for administrators"),
        "new_user": Operation("Make a user, and a key of it; for administrators", "NewUserRequest"),
        "user_info": Operation("A user with its keys and teams; without `user_id`, the caller's"),
        "user_alone": Operation("A user; without `user_id`, the caller's"),
        "list_users": Operation("The users; for administrators"),
        "update_user": Operation("Change a user; for administrators", "UpdateUserRequest"),
        "delete_users": Operation(
            "Delete users and their keys; for administrators", "DeleteUsersRequest"
        ),
        "new_team": Operation("Make a team; for administrators", "NewTeamRequest"),
        "team_info": Operation("A team with its keys; for others, the caller's without them"),
        "list_teams": Operation("The teams; for administrators"),
        "teams_page": Operation("The teams, page by page; for administrators"),
        "update_team": Operation("Change a team; for administrators", "UpdateTeamRequest"),
        "block_team": Operation("Block the keys of a team; for administrators", "TeamRequest"),
        "unblock_team": Operation("Unblock the keys of a team; for administrators", "TeamRequest"),
        "delete_teams": Operation(
            "Delete teams and their keys; for administrators", "DeleteTeamsRequest"
        ),
        "add_members": Operation("Add members to a team; for administrators", "AddMembersRequest"),
        "remove_member": Operation(
            "Remove a member from a team; for administrators", "RemoveMemberRequest"
        ),
    },
    (OURS, "reference"): {
        "document": Operation("This document"),
    },
    (CHATCHAT, "chatchat.chats"): {
        "chat": Operation("A chat", "ChatchatChatRequest", SSE, other="ChatchatMessagesRequest"),
        "fastchat": Operation(
            "A chat whose answer is plain text",
            "ChatchatChatRequest",
            SSE,
            "text/plain",
            other="ChatchatMessagesRequest",
        ),
        "knowledge_base_chat": Operation(
            "A chat about a knowledge base", "ChatchatKnowledgeChatRequest", SSE
        ),
        "file_chat": Operation("A chat about uploaded files", "ChatchatFileChatRequest", SSE),
        "search_engine_chat": Operation("A chat with web search", "ChatchatSearchChatRequest", SSE),
        "agent_chat": Operation("A chat with tools", "ChatchatChatRequest", SSE),
        "completion": Operation(
            "A completion as plain text", "ChatchatCompletionRequest", SSE, "text/plain"
        ),
        "feedback": Operation("Feedback on an answer", "ChatchatFeedback"),
    },
    (CHATCHAT, "chatchat.bases"): {
        "listed": Operation("The knowledge bases"),
        "create": Operation("Create a knowledge base", "ChatchatNewBase"),
        "delete": Operation(
            "Delete a knowledge base; the body may also be its name as a JSON string",
            "ChatchatBase",
        ),
        "update_info": Operation("Describe a knowledge base", "ChatchatBaseInfo"),
        "recreate": Operation("Read all documents again", "ChatchatRebuild", SSE),
        "search": Operation("Passages that fit a query", "ChatchatSearch"),
        "edit": Operation("Change chunks", "ChatchatEdit"),
    },
    (CHATCHAT, "chatchat.files"): {
        "listed": Operation("The documents of a base"),
        "download": Operation("A document as it came", answer="application/octet-stream"),
        "upload": Operation("Upload documents", "ChatchatDocuments"),
        "upload_temporary": Operation(
            "Upload documents for a chat about files", "ChatchatChatFiles"
        ),
        "update": Operation("Read documents again", "ChatchatUpdate"),
        "delete": Operation("Delete documents", "ChatchatDelete"),
    },
    (CHATCHAT, "chatchat.server"): {
        "running": Operation("The models served"),
        "configured": Operation("The models configured", "ChatchatModelKinds"),
        "config": Operation("One model", "ChatchatModelName"),
        "change": Operation("Change the model", "ChatchatModelChange"),
        "stop": Operation(
            "Always 400: models are chosen where the gateway is started", "ChatchatModelName"
        ),
        "configs": Operation("The settings"),
        "engines": Operation("The search engines"),
        "prompt_template": Operation("A prompt template", "ChatchatTemplate"),
        "embed_texts": Operation("Vectors of texts", "ChatchatTexts"),
    },
}
OPERATIONS = {
    f"{blueprint}.{view}": operation._replace(tag=tag)
    for (tag, blueprint), operations in _OPERATIONS.items()
    for view, operation in operations.items()
}
# The schema of a complete answer, by endpoint.
REPLIES: Mapping[str, str] = {
    "openai.chat_completions": "ChatCompletion",
    "openai.completions": "Completion",
    "openai.both_completions": "CompletionBoth",
    "responses.create": "Response",
    "responses.compact": "Compaction",
    "responses.read": "Response",
    "responses.cancel": "Response",
    "anthropic.messages": "Message",
    "ollama.chat_": "OllamaChat",
    "ollama.generate_": "OllamaGenerate",
    "glm.chat": "GLMChat",
    "native.completion": "LlamaCompletion",
    "mcp.answer": "McpAnswer",
    "native.infill": "LlamaCompletion",
}
# The schema of errors, by tag; Error for all others.
ERROR_NAMES = {
    ANTHROPIC: "AnthropicError",
    OLLAMA: "OllamaError",
    GLM: "GLMError",
    CHATCHAT: "ChatchatError",
    MCP: "McpError",
}


def documented(rules: Map) -> Iterator[tuple[Rule, str]]:
    """Yield the rules of the documented APIs with each of their methods. OpenAPI does not describe
    WebSockets."""
    for rule in sorted(rules.iter_rules(), key=lambda one: one.rule):
        if rule.websocket:
            continue
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
    schemas = {**BODIES, **FORMS, **ANSWERS, **ERRORS}
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
    error = {"schema": _ref(ERROR_NAMES.get(operation.tag, "Error"))}
    errors: dict[str, Any] = {"application/json": error}
    if operation.foreign:
        errors = {"application/json": {}, ANY: {}}
    whole: dict[str, Any] = {"200": {"description": "OK", "content": answers}}
    made: dict[str, Any] = {
        "operationId": f"{method}_{slug}",
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": {
            **(whole if operation.answer else {}),
            **{status: {"description": said} for status, said in operation.empty.items()},
            "default": {"description": "An error", "content": errors},
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
