"""Routes for dialogues: /chat/… and /other/completion."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from urllib.parse import urlencode

from flask import request

from ....core.events import Citation, Failed, Finished, TextDelta
from ....core.request import CompletionRequest, Message
from ....dialogue.events import DialogueRequest, DialogueStep, Kind, Sources, Tick
from ....dialogue.run import Running
from ....gateway import Answer
from ....web.model_tables import own_request
from ....web.observability import new_id
from ....web.routes import SSE
from ..bodies import BODIES
from .view import Document, Documents, RequestContext, blueprint, respond

NOTHING_FOUND = "No relevant documents were found; this answer comes from the model alone."


def text(history_id: str, delta: str) -> Document:
    """A piece of a plain chat's answer. Later 0.2.x clients call the id message_id."""
    return {"text": delta, "chat_history_id": history_id, "message_id": history_id}


def _chat(running: Running) -> Documents:
    history_id = new_id()
    for event in running:
        if isinstance(event, TextDelta | Tick | Finished):
            yield text(history_id, _delta(event))


def _cited(running: Running) -> Documents:
    root = request.url_root.rstrip("/") + request.path.rpartition("/chat/")[0]
    citations: list[Citation] = []
    for event in running:
        if isinstance(event, Sources):
            citations += event.citations
        elif isinstance(event, TextDelta | Tick | Finished):
            yield {"answer": _delta(event)}
    yield {"docs": [_source(citation, root) for citation in citations] or [NOTHING_FOUND]}


def _agent(running: Running) -> Documents:
    arguments = ""
    for event in running:
        if isinstance(event, TextDelta | Finished):
            yield {"final_answer": _delta(event)}
        elif isinstance(event, Tick):
            yield {"answer": ""}
        elif isinstance(event, DialogueStep):
            if event.kind == "thought":
                yield {"answer": event.text}
            elif event.kind == "tool":
                arguments = event.arguments
            else:
                lines = f"Tool: {event.name}", f"Input: {arguments}", f"Output: {event.text}"
                yield {"tools": [*lines]}


def _delta(event: TextDelta | Tick | Finished) -> str:
    """The text of an event; empty for a tick, which keeps connections open, and for the end."""
    return event.text if isinstance(event, TextDelta) else ""


def _source(citation: Citation, root: str) -> str:
    """A source as Markdown. Its address contains only ids, and the host that this client used."""
    query = {"knowledge_base_name": citation.base_id, "file_name": citation.document_id}
    link = citation.url or f"{root}/knowledge_base/download_doc?{urlencode(query)}"
    name = ", ".join(part for part in (citation.title, citation.place) if part)
    # A name is free text: brackets in it would end the link early.
    name = name.replace("[", "(").replace("]", ")")
    return f"Source [{citation.number}] [{name}]({link})\n\n{citation.text}\n\n"


def _dialogue(
    kind: Kind, body: str, documents_of: Callable[[Running], Documents], call: RequestContext
) -> tuple[bool, Documents]:
    """Start a dialogue; `documents_of` writes its events."""
    is_modified = kind == "chat" and "messages" in call.body
    values = BODIES["ChatchatMessagesRequest" if is_modified else body].parse(call.body)
    streams = values.pop("stream")
    dialogue = DialogueRequest(kind=kind, owner=call.record.key, **values)
    running = call.services.dialogues.run(dialogue, call.cancel, call.caller)
    call.record.info = running.info
    return streams, _closing(running, documents_of(running))


def _closing(running: Running | Answer, documents: Documents) -> Documents:
    with closing(running):
        yield from documents


def _completion(call: RequestContext) -> tuple[bool, Documents]:
    services, values = call.services, BODIES["ChatchatCompletionRequest"].parse(call.body)
    template, query = (values.pop(name) for name in ("template", "prompt"))
    laid = services.layouts.render("completion", template, (Message(role="user", content=query),))
    completion = CompletionRequest(prompts=("\n".join(part.content for part in laid),), **values)
    completion = own_request(services.host, services.gateway, completion, call.caller)
    running = services.gateway.answer(completion, call.cancel, call.caller)
    call.record.info = running.info
    return completion.stream, _closing(running, _completed(running))


def _completed(running: Answer) -> Documents:
    running.prime()
    for _, batch in running:
        for event in batch:
            if isinstance(event, TextDelta):
                yield text("", event.text)
            elif isinstance(event, Failed):
                raise event.error


DIALOGUES: tuple[tuple[str, Kind, str, Callable[[Running], Documents], str], ...] = (
    ("chat", "chat", "Chat", _chat, "A chat"),
    ("fastchat", "chat", "Chat", _chat, "A chat whose answer is plain text"),
    ("knowledge_base_chat", "knowledge", "KnowledgeChat", _cited, "A chat about a knowledge base"),
    ("file_chat", "knowledge", "FileChat", _cited, "A chat about uploaded files"),
    ("search_engine_chat", "search", "SearchChat", _cited, "A chat with web search"),
    ("agent_chat", "agent", "Chat", _agent, "A chat with tools"),
)
_ROUTES: list[tuple[str, str, str, Callable[[RequestContext], tuple[bool, Documents]]]] = [
    (f"/chat/{name}", text, body, partial(_dialogue, kind, f"Chatchat{body}Request", write))
    for name, kind, body, write, text in DIALOGUES
]
_ROUTES.append(("/other/completion", "A completion as plain text", "Completion", _completion))
for _path, _summary, _body, _view in _ROUTES:
    _name = _path.rpartition("/")[2]
    _is_text = _name in ("fastchat", "completion")
    blueprint.add_url_rule(
        _path,
        _name,
        partial(respond, _view, as_text=_is_text),
        methods=["POST"],
        summary=_summary,
        body=f"Chatchat{_body}Request",
        streams=SSE,
        answer="text/plain" if _is_text else "application/json",
        other="ChatchatMessagesRequest" if _name in ("chat", "fastchat") else "",
    )
