"""The chat page, and what its script calls: conversations, questions, answers, feedback."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec
from flask import Blueprint, Response, make_response, render_template, request

from ...core.invalid import Invalid
from ...core.request import Message as Said
from ...dialects import fields
from ...errors import NoBackend, NotFound
from ..exchange import STREAM_HEADERS
from ..observe import Record
from ..reply import Reply
from ..services import services
from . import api, chat_files, guard, images, options
from .answers import Answers
from .following import Seen, stored

if TYPE_CHECKING:
    from ...store.conversations import Message

blueprint = Blueprint("chat", __name__)
guard.protect(blueprint)

API = "/pages/api/chat"
TALKS = 50  # conversations told of at once
LONGEST = 100_000  # characters of a question
_answers = Answers()


@blueprint.get("/")
def page() -> Response:
    here = services()
    registry = here.gateway.registry
    models = sorted(registry.models())
    if not models:
        raise NoBackend("no backend is configured here", retry_after=10.0)
    missing = here.conversations is None
    bases = here.knowledge.bases(api.owner()) if here.knowledge is not None else ()
    return make_response(
        render_template(
            "chat.html",
            missing=missing,
            files=here.knowledge is not None,
            bases=[one for one in bases if not one.temporary],
            engines=here.dialogues.engines,
            templates=options.templates(here.layouts),
            talks=TALKS,
            models=models,
            seen=[one for one in models if images.seen(here.gateway, one)],
        )
    )


# -- conversations


@blueprint.get(f"{API}/conversations")
def conversations() -> Response:
    """The last changed first, a page of them; `?search=` for words in them, `?before=` the time of
    change of the last one of the page before."""
    search, before = request.args.get("search", ""), request.args.get("before", type=float)
    return api.json(api.conversations().recent(api.owner(), search, TALKS, before))


@blueprint.post(f"{API}/conversations")
def create() -> Response:
    return api.json(api.conversations().create(api.owner()), 201)


@blueprint.delete(f"{API}/conversations")
def clear() -> Response:
    store, owner = api.conversations(), api.owner()
    _answers.stop(owner)
    for one in store.recent(owner, limit=None):
        chat_files.forget(owner, one)
    store.clear(owner)
    return api.done()


@blueprint.get(f"{API}/conversations/<conversation>")
def conversation(conversation: str) -> Response:
    return api.json(api.conversations().get(api.owner(), conversation))


@blueprint.put(f"{API}/conversations/<conversation>")
def rename(conversation: str) -> Response:
    title = fields.text(api.asked(), "title").strip()[:200]
    return api.json(api.conversations().change(api.owner(), conversation, title=title))


@blueprint.delete(f"{API}/conversations/<conversation>")
def delete(conversation: str) -> Response:
    store, owner = api.conversations(), api.owner()
    known = store.get(owner, conversation)
    _answers.stop(owner, known.id)
    chat_files.forget(owner, known)
    store.delete(owner, known.id)
    return api.done()


@blueprint.get(f"{API}/conversations/<conversation>/messages")
def messages(conversation: str) -> Response:
    """All branches, oldest first."""
    found = api.conversations().messages(api.owner(), conversation)
    return api.json([images.shown(one) for one in found])


@blueprint.get(f"{API}/conversations/<conversation>/export")
def export(conversation: str) -> Response:
    """`?as=md` or `json`, as a download; Markdown is the branch that was spoken last."""
    known = api.conversations().get(api.owner(), conversation)
    all_ = api.conversations().messages(api.owner(), conversation)
    if request.args.get("as") == "json":
        data = msgspec.json.encode({**msgspec.to_builtins(known), "messages": all_})
        return _download(data, known.title, "json")
    said = api.conversations().path(api.owner(), all_[-1].id) if all_ else ()
    parts = [f"# {known.title}", *(f"## {one.role}\n\n{images.markdown(one)}" for one in said)]
    return _download("\n\n".join(parts).encode() + b"\n", known.title, "md")


# -- questions and answers


@blueprint.post(f"{API}/conversations/<conversation>/ask")
def ask(conversation: str) -> Response:
    """`{"text", "parent_id"}` asks under a message (none: a first one), with `images` of its own or
    `images_of` another message; `{"again": id}` answers a question once more. `options` are those
    of `options.read`, base "files" what was dropped into the conversation. Gives the question and
    the answer, which grows from here on.

    What cannot be asked, or not now, leaves nothing behind."""
    here, store, owner, asked = services(), api.conversations(), api.owner(), api.asked()
    known = store.get(owner, conversation)
    again = fields.text(asked, "again")
    told = dict(fields.mapping(asked, "options"))
    if told.get("kind") == "knowledge" and told.get("base") == "files":
        told["base"] = chat_files.base_of(known)
    question: Message | None = None
    text, parent, pictures = "", None, images.read(asked)
    if again:
        question = store.message(owner, again)
        if question.role != "user" or question.conversation_id != known.id:
            raise Invalid("again", "is no question of this conversation")
        said = options.said(store.path(owner, question.id))
    else:
        text = fields.text(asked, "text").strip()
        if not text or len(text) > LONGEST:
            raise Invalid("text", f"must have from 1 to {LONGEST} characters")
        parent = fields.text(asked, "parent_id") or None
        before = store.path(owner, parent) if parent else ()
        if other := fields.text(asked, "images_of"):
            pictures = images.kept(store.message(owner, other))
        said = [*options.said(before), Said("user", text, media=images.media_of(pictures))]
    wanted = options.read(told, said, here.layouts, owner, known.id)

    if pictures and not images.seen(here.gateway, wanted.model):
        raise Invalid("images", "cannot be seen by this model")

    def keep() -> Message:
        nonlocal question
        if question is None:
            extra = {images.NAME: pictures} if pictures else {}
            question = store.add(owner, known.id, "user", text, parent, extra=extra)
            if not known.title:
                store.change(owner, known.id, title=" ".join(text.split())[:60])
        begun = {"kind": wanted.kind}
        return store.add(owner, known.id, "assistant", "", question.id, "growing", begun)

    caller = here.callers.caller(owner, request.environ)
    caller = msgspec.structs.replace(caller, tell_place=True)
    record = Record(request.environ)
    record.key, record.stream = owner, True
    record.route = str(request.url_rule)
    answer = _answers.begin(here, store, keep, wanted, caller, record)
    assert question is not None, "an answer was kept under it"
    return api.json({"question": images.shown(question), "answer": answer}, 201)


@blueprint.get(f"{API}/answers/<message>/events")
def events(message: str) -> Response:
    """What happened to an answer from its beginning on, or since the Last-Event-ID that a browser
    tells when it had lost the connection. Raises NotFound for one that is over."""
    store, owner = api.conversations(), api.owner()
    seen = Seen.read(request.headers.get("Last-Event-ID", ""))
    growing = _answers.get(owner, message)
    if growing is not None:
        told = growing.follow(seen)
    elif store.message(owner, message).status == "growing":
        told = stored(store, owner, message, seen)
    else:
        raise NotFound("this answer is not being written")
    return Reply(told, "text/event-stream", [*STREAM_HEADERS])


@blueprint.post(f"{API}/answers/<message>/stop")
def stop(message: str) -> Response:
    store, owner = api.conversations(), api.owner()
    growing = _answers.get(owner, message)
    if growing is not None:
        growing.cancel.cancel()
    elif store.message(owner, message).status == "growing":
        store.finish(message, "stopped")  # another worker sees it, unless it is no more
    return api.done()


@blueprint.post(f"{API}/answers/<message>/feedback")
def feedback(message: str) -> Response:
    asked, owner = api.asked(), api.owner()
    score = fields.integer(asked, "score", -1, 1)
    known = api.conversations().message(owner, message)
    api.conversations().rate(owner, known.id, score or 0, fields.text(asked, "reason")[:2000])
    return api.done()


def _download(data: bytes, title: str, ending: str) -> Response:
    name = re.sub(r"[^\w\- ]", "", title).strip()[:60] or "conversation"
    response = make_response(data)
    response.mimetype = "application/json" if ending == "json" else "text/markdown"
    response.headers["Content-Disposition"] = (
        f"attachment; filename*=UTF-8''{quote(name, safe='')}.{ending}"
    )
    return response
