"""Each body schema agrees with its parser: the same fields, and examples that it accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from proxy.apis import anthropic
from proxy.apis.anthropic import request as messages_request
from proxy.apis.batches import objects as batches
from proxy.apis.chatchat import bodies as chatchat
from proxy.apis.conversations import routes as conversations
from proxy.apis.embeddings import request as embeddings
from proxy.apis.embeddings.request import parse_ranking
from proxy.apis.fields import filled, model_name
from proxy.apis.files import routes as files_api
from proxy.apis.glm import chat as glm
from proxy.apis.litellm import objects as litellm
from proxy.apis.llamacpp import native as llamacpp_native
from proxy.apis.llamacpp.native import DETOKENIZE, GLM_TOKENIZE, SLOT_FILE, TOKENIZE
from proxy.apis.mcp import server as mcp_server
from proxy.apis.ollama.dialects import chat, generate
from proxy.apis.ollama.routes import parse_pull, parse_show
from proxy.apis.openai import chat as openai_chat
from proxy.apis.openai import completions as openai_completions
from proxy.apis.openai.completions import both as completions_both
from proxy.apis.responses import request as responses
from proxy.apis.responses.answer import compact_body
from proxy.apis.schema_fields import read_all
from proxy.apis.vector_stores import request as vector_stores
from proxy.errors import InvalidParameter
from proxy.web.reference import schemas_of
from tests.fakes import ScriptedDriver, make_app

CHATCHAT_FORMS = ("ChatchatDocuments", "ChatchatChatFiles")
PARSERS: dict[str, Callable[[Any], Any]] = {
    "ChatCompletionRequest": openai_chat.parse,
    "ConversationRequest": conversations.parse_new,
    "ConversationChange": conversations.parse_change,
    "ConversationItems": conversations.parse_items,
    "CompletionRequest": openai_completions.parse,
    "CompletionRequestBoth": completions_both.parse,
    "EmbeddingRequest": embeddings.parse,
    "RerankRequest": parse_ranking,
    "ResponseRequest": responses.parse,
    "CompactRequest": lambda body: responses.parse(compact_body(body)),
    "VectorStoreRequest": vector_stores.parse_create,
    "VectorStoreChange": vector_stores.parse_update,
    "VectorStoreSearch": vector_stores.parse_search,
    "VectorStoreFile": vector_stores.parse_attach,
    "VectorStoreFileAttributes": vector_stores.attributes,
    "VectorStoreFileBatch": vector_stores.parse_batch,
    "BatchRequest": batches.parse,
    "McpMessage": mcp_server.parse,
    "MessageRequest": anthropic.parse,
    "CountTokensRequest": lambda body: messages_request.parse(body, counting=True),
    "OllamaChatRequest": chat.parse,
    "OllamaGenerateRequest": generate.parse,
    "OllamaEmbedRequest": partial(embeddings.parse, table=embeddings.OLLAMA),
    "PromptEmbeddingRequest": partial(embeddings.parse, table=embeddings.PROMPT),
    "GLMChatRequest": glm.parse,
    "LlamaCompletionRequest": llamacpp_native.parse,
    "LlamaInfillRequest": llamacpp_native.parse_infill,
    "OllamaShowRequest": parse_show,
    "OllamaPullRequest": parse_pull,
    "GLMTokenizeRequest": partial(read_all, fields=GLM_TOKENIZE),
    "TokenizeRequest": partial(read_all, fields=TOKENIZE),
    "DetokenizeRequest": partial(read_all, fields=DETOKENIZE),
    "ModelActionRequest": lambda body: filled(body, "model"),
    "SlotFileRequest": partial(read_all, fields=SLOT_FILE),
    "GenerateKeyRequest": lambda body: litellm.edit_key(body, 0.0),
    "ForwardedRequest": model_name,
    **{name: form.parse for name, form in chatchat.BODIES.items() if name not in CHATCHAT_FORMS},
}
FORM_PARSERS: dict[str, Callable[[Any], Any]] = {
    "FileUploadForm": lambda form: files_api.parse(form, "a.txt"),
    **{name: chatchat.BODIES[name].parse for name in CHATCHAT_FORMS},
}
SCHEMAS = schemas_of(make_app(ScriptedDriver(), chatchat=True))
BODIES = {name: SCHEMAS[name] for name in PARSERS}
FORMS = {name: SCHEMAS[name] for name in FORM_PARSERS}
# Read only to be refused by name, or elsewhere.
READ_BEFORE = {"capture"}  # by `web.model_tables.read_request`, of every API
NOT_HEEDED = {
    "prompt",
    "template",
    "keep_alive",
}
# A parser needs these beside others, or one of two.
BESIDE: dict[str, dict[str, Any]] = {
    "top_logprobs": {"logprobs": True},
    "function_call": {"functions": [{"name": "f"}]},
    "file_ids": {},
    "files": {"files": [{"file_id": "file-1"}]},
}
# One of two, in place of the other.
INSTEAD = {"files": "file_ids", "message_id": "chat_history_id"}
NEEDED: dict[str, dict[str, Any]] = {
    "VectorStoreFileBatch": {"file_ids": ["file-1"]},
    "OllamaChatRequest": {"messages": [{"role": "user", "content": "Hi"}]},
    "DeleteKeysRequest": {"keys": ["key_1"]},  # or aliases
    "McpMessage": {"method": "ping"},  # or a result
    "CompactRequest": {"input": "Hi"},  # or a previous response
    "ChatchatFeedback": {"chat_history_id": "0" * 32},
}


class Asked(dict[str, Any]):
    """A body that records which of its fields were read."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.names: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.names.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.names.add(str(key))
        return super().__contains__(key)


def _bodies(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each field that a schema describes, a body with the field's example."""
    schema = BODIES[name]
    fields = schema["properties"]
    needed = {required: fields[required]["examples"][0] for required in schema.get("required", ())}
    needed |= NEEDED.get(name, {})
    for field, described in fields.items():
        if field in READ_BEFORE:
            continue
        body = needed | BESIDE.get(field, {})
        body.pop(INSTEAD.get(field, ""), None)
        if field not in BESIDE or field not in body:
            body[field] = described["examples"][0]
        yield field, body


def test_every_schema_of_a_body_has_a_parser() -> None:
    described = {
        name: schema
        for name, schema in SCHEMAS.items()
        if any("examples" in field for field in schema.get("properties", {}).values())
    }
    # Views read the other fields of LiteLLM's bodies.
    assert {*PARSERS, *FORM_PARSERS} == {*described} - {*litellm.BODIES} | {"GenerateKeyRequest"}


@pytest.mark.parametrize("name", BODIES | litellm.BODIES)
def test_schema_is_valid_and_accepts_its_examples(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    for field, described in SCHEMAS[name]["properties"].items():
        assert described["description"].endswith("."), field
        for example in described["examples"]:
            Draft202012Validator(described).validate(example)


@pytest.mark.parametrize("name", BODIES)
def test_parser_reads_exactly_the_fields_of_its_schema(name: str) -> None:
    described = set(BODIES[name]["properties"])
    names: set[str] = set()
    for field, body in _bodies(name):
        watched = Asked(body)
        try:
            PARSERS[name](watched)
        except InvalidParameter as error:
            pytest.fail(f"{field}: {error.param} {error.reason}")
        names |= watched.names
        assert field in watched.names, f"{name} does not read {field}"
    assert names - described - NOT_HEEDED == set()


@pytest.mark.parametrize("name", BODIES)
def test_null_equals_absent(name: str) -> None:
    for field, body in _bodies(name):
        needed = {*BODIES[name].get("required", ()), *NEEDED.get(name, ()), *INSTEAD}
        if field not in needed:
            alone = {**body, field: None}
            PARSERS[name](alone)
            Draft202012Validator(BODIES[name]).validate(alone)


# -- forms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_form_parser_reads_exactly_the_fields_of_its_schema(name: str) -> None:
    Draft202012Validator.check_schema(FORMS[name])
    described = {
        field: schema["examples"][0]
        for field, schema in FORMS[name]["properties"].items()
        if "contentMediaType" not in schema  # the files themselves
    }
    texts = {
        field: str(value).lower() if isinstance(value, bool) else str(value)
        for field, value in described.items()
    }
    for form in (Asked(texts), Asked({field: value for field, value in texts.items() if value})):
        FORM_PARSERS[name](form)
        assert form.names == set(described)
