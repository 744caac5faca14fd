"""Routes for dialogues: /chat/… and /other/completion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

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
from ....errors import Forbidden, NotFound
from ....web.model_tables import own_request
from ....web.observability import Record, new_id
from ....web.routes import SSE
from ....web.services import Services
from .. import answer, params, reply
from .streaming import TEXT, Documents, DocumentStream, RequestContext, respond
from .view import api, json_body, route

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
    return reply.ok(msg=f"feedback on {wanted.history_id} saved")


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
