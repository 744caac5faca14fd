"""Routes for dialogues (/chat/… and /other/completion), models and the server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

from .... import __version__
from ....core.events import Failed, TextDelta
from ....core.request import CompletionRequest, Message
from ....dialogue.events import (
    Citation,
    DialogueDone,
    DialogueRequest,
    DialogueStep,
    Sources,
    Text,
    Tick,
)
from ....dialogue.run import Running
from ....errors import Forbidden, ModelNotFound, NotFound, Unsupported
from ....web.model_tables import own_request
from ....web.observability import Record, new_id
from ....web.permissions import visible
from ....web.routes import SSE
from ....web.services import Services
from ...embeddings.routes import embedded
from .. import answer, bases, params
from ..answer import error_of_list, error_of_table, ok
from ..params import (
    ChatchatModel,
    changed_model,
    configured_models,
    model_config,
    named_model,
    running_models,
    template_of,
    texts_of,
)
from .view import TEXT, Documents, DocumentStream, RequestContext, api, json_body, respond, route

blueprint = api("chats", __name__)

COMPLETION = "completion"  # folder of its prompt templates
OURS = re.compile("[0-9a-f]{32}")  # answer ids


@blueprint.post(
    "/chat/chat", body="ChatchatChatRequest", streams=SSE, other="ChatchatMessagesRequest"
)
def chat() -> Response:
    """A chat."""
    return respond(_chat)


@blueprint.post(
    "/chat/fastchat",
    body="ChatchatChatRequest",
    streams=SSE,
    answer="text/plain",
    other="ChatchatMessagesRequest",
)
def fastchat() -> Response:
    """A chat whose answer is plain text.

    It has no wrapper."""
    return respond(_chat, TEXT)


@blueprint.post("/chat/knowledge_base_chat", body="ChatchatKnowledgeChatRequest", streams=SSE)
def knowledge_base_chat() -> Response:
    """A chat about a knowledge base."""
    return respond(lambda call: _cited(call, params.knowledge(call.body)))


@blueprint.post("/chat/file_chat", body="ChatchatFileChatRequest", streams=SSE)
def file_chat() -> Response:
    """A chat about uploaded files."""
    return respond(lambda call: _cited(call, params.file(call.body)))


@blueprint.post("/chat/search_engine_chat", body="ChatchatSearchChatRequest", streams=SSE)
def search_engine_chat() -> Response:
    """A chat with web search."""
    return respond(lambda call: _cited(call, params.search(call.body)))


@blueprint.post("/chat/agent_chat", body="ChatchatChatRequest", streams=SSE)
def agent_chat() -> Response:
    """A chat with tools."""
    return respond(_agent)


@route(blueprint, "POST", "/chat/feedback", body="ChatchatFeedback")
def feedback(services: Services, record: Record) -> Any:
    """Feedback on an answer."""
    wanted = params.feedback(json_body(services))
    if services.conversations is None:
        raise Forbidden(
            "storage is not available: install it with pip install slotproxy[knowledge]"
        )
    if not OURS.fullmatch(wanted.history_id):
        raise NotFound(f"no such answer: {wanted.history_id[:100]!r}")
    services.conversations.rate(record.key, wanted.history_id, wanted.score, wanted.reason)
    return ok(msg=f"feedback on {wanted.history_id} saved")


@blueprint.post(
    "/other/completion", body="ChatchatCompletionRequest", streams=SSE, answer="text/plain"
)
def completion() -> Response:
    """A completion as plain text."""
    return respond(_completion, TEXT)


def _chat(call: RequestContext) -> DocumentStream:
    wanted = params.chat(call.body)
    history_id = new_id()

    def documents_of(running: Running) -> Documents:
        for event in running:
            if isinstance(event, Text | Tick | DialogueDone):
                yield answer.text(history_id, _delta(event))

    return _run(call, wanted, documents_of)


def _cited(call: RequestContext, wanted: params.DialogueParams) -> DocumentStream:
    link = _download_link()

    def documents_of(running: Running) -> Documents:
        citations: list[Citation] = []
        for event in running:
            if isinstance(event, Sources):
                citations += event.citations
            elif isinstance(event, Text | Tick | DialogueDone):
                yield answer.answer(_delta(event))
        yield answer.docs([_source(one, link) for one in citations])

    return _run(call, wanted, documents_of)


def _agent(call: RequestContext) -> DocumentStream:
    def documents_of(running: Running) -> Documents:
        arguments = ""
        for event in running:
            if isinstance(event, Text | DialogueDone):
                yield answer.final_answer(_delta(event))
            elif isinstance(event, Tick):
                yield answer.answer("")
            elif isinstance(event, DialogueStep):
                if event.kind == "thought":
                    yield answer.answer(event.text)
                elif event.kind == "tool":
                    arguments = event.arguments
                else:
                    yield answer.tools(event.name, arguments, event.text)

    return _run(call, params.agent(call.body), documents_of)


def _run(
    call: RequestContext,
    wanted: params.DialogueParams,
    documents_of: Callable[[Running], Documents],
) -> DocumentStream:
    """Start a dialogue and return its events as documents."""
    running = call.services.dialogues.run(
        DialogueRequest(
            kind=wanted.kind,
            messages=wanted.messages,
            model=wanted.model,
            sampling=wanted.sampling,
            max_tokens=wanted.max_tokens,
            template=wanted.prompt_name,
            bases=(wanted.base,) if wanted.base else (),
            top_k=wanted.top_k,
            score_threshold=params.nearness(wanted.score_threshold),
            engine=wanted.engine,
            split=wanted.split,
            owner=call.owner,
        ),
        call.cancel,
        call.caller,
    )
    call.record.info = running.info

    def documents() -> Documents:
        try:
            yield from documents_of(running)
        finally:
            running.close()

    return DocumentStream(wanted.stream, documents())


def _delta(event: Text | Tick | DialogueDone) -> str:
    """Return the text of an event. A tick gives an empty piece, which keeps idle connections open.
    So does the end, so that an empty answer still has its field."""
    return event.delta if isinstance(event, Text) else ""


def _source(citation: Citation, link: Callable[[Citation], str]) -> answer.Source:
    name = ", ".join(part for part in (citation.title, citation.place) if part)
    return answer.Source(citation.number, name, citation.url or link(citation), citation.text)


def _download_link() -> Callable[[Citation], str]:
    """Return a function that gives a source's download address on the host this client used. The
    address contains only ids."""
    root = request.url_root.rstrip("/") + request.path.rpartition("/chat/")[0]

    def link(citation: Citation) -> str:
        query = {"knowledge_base_name": citation.base_id, "file_name": citation.document_id}
        return f"{root}/knowledge_base/download_doc?{urlencode(query)}"

    return link


def _completion(call: RequestContext) -> DocumentStream:
    wanted = params.completion(call.body)
    laid = call.services.layouts.render(
        COMPLETION, wanted.prompt_name, (Message(role="user", content=wanted.prompt),)
    )
    prompt = "\n".join(message.content for message in laid)
    gateway = call.services.gateway
    completion = CompletionRequest(
        model=wanted.model,
        prompts=(prompt,),
        sampling=wanted.sampling,
        max_tokens=wanted.max_tokens,
        stream=wanted.stream,
    )
    completion = own_request(call.services.host, gateway, completion)
    running = gateway.answer(completion, call.cancel, call.caller)
    call.record.info = running.info

    def pieces() -> Iterator[str]:
        running.prime()
        if wanted.echo:
            yield prompt
        for _, batch in running:
            for event in batch:
                if isinstance(event, TextDelta):
                    yield event.text
                elif isinstance(event, Failed):
                    raise event.error

    def documents() -> Documents:
        try:
            yield from (answer.text("", piece) for piece in pieces())
        finally:
            running.close()

    return DocumentStream(wanted.stream, documents())


# Models, server settings, prompt templates and embeddings. Backends are configured when slotproxy
# starts, and all their models are served at the same time. So stopping a model does nothing, and
# changing to another needs no wait.
server_api = api("server", __name__)


@route(server_api, "POST", "/llm_model/list_running_models", shape=error_of_table)
def running(services: Services, record: Record) -> Any:
    """The models served."""
    return ok(running_models(_models(services)))


@route(
    server_api,
    "POST",
    "/llm_model/list_config_models",
    shape=error_of_table,
    body="ChatchatModelKinds",
)
def configured(services: Services, record: Record) -> Any:
    """The models configured."""
    return ok(configured_models(json_body(services), _models(services)))


@route(
    server_api,
    "POST",
    "/llm_model/get_model_config",
    shape=error_of_table,
    body="ChatchatModelName",
)
def config(services: Services, record: Record) -> Any:
    """One model."""
    return ok(model_config(_model(services, named_model(json_body(services)))))


@route(server_api, "POST", "/llm_model/stop", body="ChatchatModelName")
def stop(services: Services, record: Record) -> Any:
    """Always 400: models are chosen where the gateway is started."""
    _model(services, named_model(json_body(services)))
    raise Unsupported("models are configured when slotproxy starts, not through this API")


@route(server_api, "POST", "/llm_model/change", body="ChatchatModelChange")
def change(services: Services, record: Record) -> Any:
    """Change the model."""
    _, new = changed_model(json_body(services))
    return ok(msg=f"{_model(services, new).name} is served")


def _models(services: Services) -> list[ChatchatModel]:
    return [_model(services, name) for name in _names(services)]


def _names(services: Services) -> tuple[str, ...]:
    return visible(services, request.environ, services.gateway.registry.names())


def _model(services: Services, name: str) -> ChatchatModel:
    """Return a model. Raises ModelNotFound, even if chats accept any model name."""
    registry = services.gateway.registry
    if name not in _names(services):
        raise ModelNotFound(f"the model {name[:100]!r} does not exist", param="model_name")
    pool = registry.pool(registry.resolve(name)[0])
    return ChatchatModel(
        name,
        any(one.up for one in pool),
        next((one.caps.dialect for one in pool if one.caps is not None), "unknown"),
        max((one.n_ctx for one in pool), default=0),
    )


@route(server_api, "POST", "/server/configs", shape=error_of_table)
def configs(services: Services, record: Record) -> Any:
    """The settings.

    Return the defaults for the client's pages, under the names they use."""
    engines = services.settings.search_engine
    return {
        "VERSION": __version__,
        "LLM_MODELS": list(_names(services)),
        "TEMPERATURE": params.TEMPERATURE,
        "HISTORY_LEN": 3,
        "DEFAULT_KNOWLEDGE_BASE": "samples",
        "DEFAULT_SEARCH_ENGINE": engines[0] if engines else "",
        "DEFAULT_VS_TYPE": "faiss",
        "CHUNK_SIZE": bases.CHUNK_SIZE,
        "OVERLAP_SIZE": bases.CHUNK_OVERLAP,
        "SCORE_THRESHOLD": params.SCORE_THRESHOLD,
        "VECTOR_SEARCH_TOP_K": params.TOP_K,
        "SEARCH_ENGINE_TOP_K": params.TOP_K,
        "ZH_TITLE_ENHANCE": False,
        "PROMPT_TEMPLATES": {
            folder: {
                name: services.layouts.layout(folder, name).source
                for name in services.layouts.names(folder)
            }
            for folder in params.FOLDERS.values()
        },
    }


@route(server_api, "POST", "/server/list_search_engines", shape=error_of_list)
def engines(services: Services, record: Record) -> Any:
    """The search engines."""
    return ok(services.settings.search_engine)


@route(server_api, "POST", "/server/get_prompt_template", body="ChatchatTemplate")
def prompt_template(services: Services, record: Record) -> Any:
    """A prompt template."""
    wanted = template_of(json_body(services))
    return services.layouts.layout(wanted.folder, wanted.name).source


@route(server_api, "POST", "/other/embed_texts", body="ChatchatTexts")
def embed_texts(services: Services, record: Record) -> Any:
    """Vectors of texts."""
    wanted = texts_of(json_body(services))
    _, made = embedded(services, record, wanted.model, wanted.texts)
    return ok(made.vectors)
