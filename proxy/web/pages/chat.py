"""The chat page, and what its script calls: conversations, questions, answers, feedback."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
from flask import Blueprint, Response, make_response, render_template, request

from ...core.invalid import Invalid
from ...core.request import Message as Said
from ...core.sampling import sampling
from ...dialects import fields
from ...dialogue import DialogueRequest
from ...errors import NotFound
from .. import body
from ..exchange import STREAM_HEADERS
from ..observe import Record
from ..reply import Reply
from ..services import services
from . import chat_files, guard
from .answers import Answers

if TYPE_CHECKING:
    from ...store.conversations import ConversationStore, Message

blueprint = Blueprint("chat", __name__)
guard.protect(blueprint)

API = "/pages/api/chat"
KINDS = ("chat", "knowledge", "search", "agent")
LONGEST = 100_000  # characters of a question
_answers = Answers()


@blueprint.get("/")
def page() -> Response:
    here = services()
    missing = here.conversations is None
    bases = here.knowledge.bases(_owner()) if here.knowledge is not None else ()
    return make_response(
        render_template(
            "chat.html",
            missing=missing,
            files=here.knowledge is not None,
            bases=[one for one in bases if not one.temporary],
            engines=here.dialogues.engines,
            models=sorted({one.model for one in here.gateway.registry.backends.values()} - {""}),
        )
    )


# -- conversations


@blueprint.get(f"{API}/conversations")
def conversations() -> Response:
    """The last changed first; `?search=` for words in them."""
    return _json(_store().recent(_owner(), request.args.get("search", "")))


@blueprint.post(f"{API}/conversations")
def create() -> Response:
    return _json(_store().create(_owner()), 201)


@blueprint.delete(f"{API}/conversations")
def clear() -> Response:
    _store().clear(_owner())
    return make_response("", 204)


@blueprint.put(f"{API}/conversations/<conversation>")
def rename(conversation: str) -> Response:
    title = fields.text(_asked(), "title").strip()[:200]
    return _json(_store().change(_owner(), conversation, title=title))


@blueprint.delete(f"{API}/conversations/<conversation>")
def delete(conversation: str) -> Response:
    _store().delete(_owner(), conversation)
    return make_response("", 204)


@blueprint.get(f"{API}/conversations/<conversation>/messages")
def messages(conversation: str) -> Response:
    """All branches, oldest first."""
    return _json(_store().messages(_owner(), conversation))


@blueprint.get(f"{API}/conversations/<conversation>/export")
def export(conversation: str) -> Response:
    """`?as=md` or `json`, as a download; Markdown is the branch that was spoken last."""
    known = _store().get(_owner(), conversation)
    all_ = _store().messages(_owner(), conversation)
    if request.args.get("as") == "json":
        data = msgspec.json.encode({**msgspec.to_builtins(known), "messages": all_})
        return _download(data, known.title, "json")
    said = _store().path(_owner(), all_[-1].id) if all_ else ()
    parts = [f"# {known.title}", *(f"## {one.role}\n\n{one.content}" for one in said)]
    return _download("\n\n".join(parts).encode() + b"\n", known.title, "md")


# -- questions and answers


@blueprint.post(f"{API}/conversations/<conversation>/ask")
def ask(conversation: str) -> Response:
    """`{"text", "parent_id"}` asks under a message (none: a first one), `{"again": id}` answers a
    question once more; `options` are those of `_request`, base "files" what was dropped into the
    conversation. Gives the question and the answer, which
    grows from here on."""
    store, owner, asked = _store(), _owner(), _asked()
    known = store.get(owner, conversation)
    again = fields.text(asked, "again")
    options = dict(fields.mapping(asked, "options"))
    if options.get("kind") == "knowledge" and options.get("base") == "files":
        options["base"] = chat_files.base_of(known)
    if again:
        question = store.message(owner, again)
        if question.role != "user" or question.conversation_id != known.id:
            raise Invalid("again", "is no question of this conversation")
        wanted = _request(options, store.path(owner, question.id), owner, known.id)
    else:
        text = fields.text(asked, "text").strip()
        if not text or len(text) > LONGEST:
            raise Invalid("text", f"must have from 1 to {LONGEST} characters")
        parent = fields.text(asked, "parent_id") or None
        before = store.path(owner, parent) if parent else ()
        # What cannot be asked must leave no question behind.
        wanted = _request(options, before, owner, known.id, text)
        question = store.add(owner, known.id, "user", text, parent)
        if not known.title:
            store.change(owner, known.id, title=" ".join(text.split())[:60])
    extra = {"kind": wanted.kind}
    answer = store.add(owner, known.id, "assistant", "", question.id, "growing", extra)
    here = services()
    caller = here.callers.caller(owner, request.environ)
    record = Record(request.environ)
    record.key, record.stream = owner, True
    _answers.begin(here, store, answer, wanted, caller, record)
    return _json({"question": question, "answer": answer}, 201)


@blueprint.get(f"{API}/answers/<message>/events")
def events(message: str) -> Response:
    """What happened to an answer from its beginning on. Raises NotFound for one that is over."""
    growing = _answers.get(_owner(), message)
    if growing is None:
        raise NotFound("this answer is not being written")
    return Reply(growing.follow(), "text/event-stream", [*STREAM_HEADERS])


@blueprint.post(f"{API}/answers/<message>/stop")
def stop(message: str) -> Response:
    growing = _answers.get(_owner(), message)
    if growing is not None:
        growing.cancel.cancel()
    return make_response("", 204)


@blueprint.post(f"{API}/answers/<message>/feedback")
def feedback(message: str) -> Response:
    asked, owner = _asked(), _owner()
    score = fields.integer(asked, "score", -1, 1)
    known = _store().message(owner, message)
    _store().rate(owner, known.id, score or 0, fields.text(asked, "reason")[:2000])
    return make_response("", 204)


def _request(
    options: Mapping[str, Any],
    before: tuple[Message, ...],
    owner: str,
    session: str,
    text: str = "",
) -> DialogueRequest:
    """`options`: kind, model, system, base (its id), top_k, score_threshold, engine, max_tokens,
    history (turns) and sampling by the names of llama.cpp. Raises Invalid."""
    kind = fields.text(options, "kind", "chat")
    if kind not in KINDS:
        raise Invalid("options.kind", f"must be one of {', '.join(KINDS)}")
    said = [Said(one.role, one.content) for one in before if one.content]
    if text:
        said.append(Said("user", text))
    history = fields.integer(options, "history", 0, 1000, "options.")
    if history is not None:
        said = said[-(2 * history + 1) :]
    system = fields.text(options, "system").strip()
    if system:
        said.insert(0, Said("system", system))
    base = fields.text(options, "base")
    least = options.get("score_threshold")
    if least is not None and (type(least) not in (int, float) or not 0 <= least <= 1):
        raise Invalid("options.score_threshold", "must be a number from 0 to 1")
    return DialogueRequest(
        kind=kind,  # type: ignore[arg-type]  # it was checked
        messages=tuple(said),
        model=fields.text(options, "model"),
        sampling=sampling(fields.mapping(options, "sampling", "options.")),
        max_tokens=fields.integer(options, "max_tokens", 1, 1 << 20, "options."),
        bases=(base,) if base else (),
        top_k=fields.integer(options, "top_k", 1, 50, "options.") or 3,
        score_threshold=least,
        engine=fields.text(options, "engine"),
        owner=owner,
        session=session,
    )


def _store() -> ConversationStore:
    """Raises NotFound where the extra is not installed."""
    store = services().conversations
    if store is None:
        raise NotFound("conversations are not installed: pip install 'slotproxy[knowledge]'")
    return store


def _owner() -> str:
    return services().keys.check(request.environ)


def _asked() -> dict[str, Any]:
    return body.read_json(request.environ, services().settings.max_body)


def _json(value: object, status: int = 200) -> Response:
    return Reply(msgspec.json.encode(value), "application/json", [], status)


def _download(data: bytes, title: str, ending: str) -> Response:
    name = re.sub(r"[^\w\- ]", "", title).strip()[:60] or "conversation"
    response = make_response(data)
    response.mimetype = "application/json" if ending == "json" else "text/markdown"
    response.headers["Content-Disposition"] = (
        f"attachment; filename*=UTF-8''{quote(name, safe='')}.{ending}"
    )
    return response
