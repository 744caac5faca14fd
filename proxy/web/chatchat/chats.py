"""The dialogues: /chat/… and /other/completion."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Blueprint, Response

from ...core.events import Failed, TextDelta
from ...core.request import CompletionRequest, Message
from ...dialects.chatchat import answer, asked
from ..observe import new_id
from .spoken import TEXT, Call, Documents, Speech, speak

blueprint = Blueprint("chats", __name__)

COMPLETION = "completion"  # the folder of its templates


@blueprint.post("/chat/chat")
def chat() -> Response:
    return speak(_chat)


@blueprint.post("/chat/fastchat")
def fastchat() -> Response:
    """A chat without the wrapper: the answer's text alone."""
    return speak(_chat, TEXT)


@blueprint.post("/other/completion")
def completion() -> Response:
    return speak(_completion, TEXT)


def _chat(call: Call) -> Speech:
    wanted = asked.chat(call.body)
    folder = asked.FOLDERS[wanted.kind]
    messages = call.here.layouts.lay(folder, wanted.prompt_name, wanted.messages)
    request = CompletionRequest(
        model=wanted.model,
        messages=messages,
        sampling=wanted.sampling,
        max_tokens=wanted.max_tokens,
        stream=wanted.stream,
    )
    return Speech(wanted.stream, _told(call, request, new_id()))


def _completion(call: Call) -> Speech:
    wanted = asked.completion(call.body)
    laid = call.here.layouts.lay(COMPLETION, wanted.prompt_name, (Message("user", wanted.prompt),))
    prompt = "\n".join(message.content for message in laid)
    request = CompletionRequest(
        model=wanted.model,
        prompts=(prompt,),
        sampling=wanted.sampling,
        max_tokens=wanted.max_tokens,
        stream=wanted.stream,
    )
    return Speech(wanted.stream, _told(call, request, "", prompt if wanted.echo else ""))


def _told(call: Call, request: CompletionRequest, history_id: str, echo: str = "") -> Documents:
    """The pieces of an answer. Raises what the gateway does."""
    running = call.here.gateway.answer(request, call.cancel, call.caller)
    call.record.info = running.info

    def pieces() -> Iterator[str]:
        if echo:
            yield echo
        for _, batch in running:
            for event in batch:
                if isinstance(event, TextDelta):
                    yield event.text
                elif isinstance(event, Failed):
                    raise event.error

    try:
        running.prime()
        yield from (answer.text(history_id, piece) for piece in pieces() if piece)
    finally:
        running.close()
