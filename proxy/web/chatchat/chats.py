"""The dialogues: /chat/… and /other/completion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from ...core.events import Failed, TextDelta
from ...core.request import CompletionRequest, Message
from ...dialects.chatchat import answer, asked, reply
from ...dialogue import Citation, DialogueRequest, Done, Running, Sources, Step, Text, Tick
from ...errors import Forbidden, NotFound
from ..observe import Record, new_id
from ..services import Services
from .spoken import TEXT, Call, Documents, Speech, speak
from .view import asked as body
from .view import plain

blueprint = Blueprint("chats", __name__)

COMPLETION = "completion"  # the folder of its templates
OURS = re.compile("[0-9a-f]{32}")  # ids of answers


@blueprint.post("/chat/chat")
def chat() -> Response:
    return speak(_chat)


@blueprint.post("/chat/fastchat")
def fastchat() -> Response:
    """A chat without the wrapper: the answer's text alone."""
    return speak(_chat, TEXT)


@blueprint.post("/chat/knowledge_base_chat")
def knowledge_base_chat() -> Response:
    return speak(lambda call: _cited(call, asked.knowledge(call.body)))


@blueprint.post("/chat/file_chat")
def file_chat() -> Response:
    return speak(lambda call: _cited(call, asked.file(call.body)))


@blueprint.post("/chat/search_engine_chat")
def search_engine_chat() -> Response:
    return speak(lambda call: _cited(call, asked.search(call.body)))


@blueprint.post("/chat/agent_chat")
def agent_chat() -> Response:
    return speak(_agent)


@blueprint.post("/chat/feedback")
def feedback() -> Response:
    def view(here: Services, record: Record) -> Any:
        wanted = asked.feedback(body(here))
        if here.conversations is None:
            raise Forbidden("nothing is kept here: pip install slotproxy[knowledge]")
        if not OURS.fullmatch(wanted.history_id):
            raise NotFound(f"there is no answer {wanted.history_id[:100]!r}")
        here.conversations.rate(record.key, wanted.history_id, wanted.score, wanted.reason)
        return reply.ok(msg=f"what is thought of {wanted.history_id} is kept")

    return plain(view)


@blueprint.post("/other/completion")
def completion() -> Response:
    return speak(_completion, TEXT)


def _chat(call: Call) -> Speech:
    wanted = asked.chat(call.body)
    history_id = new_id()

    def said(running: Running) -> Documents:
        for event in running:
            if isinstance(event, Text | Tick | Done):
                yield answer.text(history_id, _delta(event))

    return _run(call, wanted, said)


def _cited(call: Call, wanted: asked.Asked) -> Speech:
    link = _download_link()

    def said(running: Running) -> Documents:
        found: list[Citation] = []
        for event in running:
            if isinstance(event, Sources):
                found += event.citations
            elif isinstance(event, Text | Tick | Done):
                yield answer.answer(_delta(event))
        yield answer.docs([_source(one, link) for one in found])

    return _run(call, wanted, said)


def _agent(call: Call) -> Speech:
    def said(running: Running) -> Documents:
        arguments = ""
        for event in running:
            if isinstance(event, Text | Done):
                yield answer.final_answer(_delta(event))
            elif isinstance(event, Tick):
                yield answer.answer("")
            elif isinstance(event, Step):
                if event.kind == "thought":
                    yield answer.answer(event.text)
                elif event.kind == "tool":
                    arguments = event.arguments
                else:
                    yield answer.tools(event.name, arguments, event.text)

    return _run(call, asked.agent(call.body), said)


def _run(call: Call, wanted: asked.Asked, said: Callable[[Running], Documents]) -> Speech:
    """Begin a dialogue, told as documents."""
    running = call.here.dialogues.run(
        DialogueRequest(
            kind=wanted.kind,
            messages=wanted.messages,
            model=wanted.model,
            sampling=wanted.sampling,
            max_tokens=wanted.max_tokens,
            template=wanted.prompt_name,
            bases=(wanted.base,) if wanted.base else (),
            top_k=wanted.top_k,
            score_threshold=asked.nearness(wanted.score_threshold),
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
            yield from said(running)
        finally:
            running.close()

    return Speech(wanted.stream, documents())


def _delta(event: Text | Tick | Done) -> str:
    """A tick of silence is an empty piece: it keeps the connection from being given up. So is the
    end: an answer without a word has its field all the same."""
    return event.delta if isinstance(event, Text) else ""


def _source(citation: Citation, link: Callable[[Citation], str]) -> answer.Source:
    name = ", ".join(part for part in (citation.title, citation.place) if part)
    return answer.Source(citation.number, name, citation.url or link(citation), citation.text)


def _download_link() -> Callable[[Citation], str]:
    """Where a source can be had, as this client reaches us; made of ids alone."""
    root = request.url_root.rstrip("/") + request.path.rpartition("/chat/")[0]

    def link(citation: Citation) -> str:
        query = {"knowledge_base_name": citation.base_id, "file_name": citation.document_id}
        return f"{root}/knowledge_base/download_doc?{urlencode(query)}"

    return link


def _completion(call: Call) -> Speech:
    wanted = asked.completion(call.body)
    laid = call.here.layouts.lay(COMPLETION, wanted.prompt_name, (Message("user", wanted.prompt),))
    prompt = "\n".join(message.content for message in laid)
    running = call.here.gateway.answer(
        CompletionRequest(
            model=wanted.model,
            prompts=(prompt,),
            sampling=wanted.sampling,
            max_tokens=wanted.max_tokens,
            stream=wanted.stream,
        ),
        call.cancel,
        call.caller,
    )
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

    return Speech(wanted.stream, documents())
