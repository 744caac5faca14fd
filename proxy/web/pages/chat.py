"""The chat page and the routes its script calls: conversations, questions and answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from flask import Response, render_template, request
from msgspec.structs import replace

from ...apis import fields
from ...apis.media.routes import HEARD, forwarded
from ...core.fold import fold
from ...core.request import Message
from ...core.sampling import sampling
from ...dialogue.events import FOLDERS, DialogueRequest, Kind
from ...dialogue.finding import EMPTY
from ...errors import GatewayError, InvalidParameter, NoBackend, NotFound
from ...gateway.explain import must_load
from ...gateway.prewarm import prewarm
from ...prompting.template.dialogues import Layouts
from ...store.records import FOLDER, PINNED
from .. import body, permissions
from ..observability import Record
from ..routes import Api
from ..services import current_services
from ..spine import STREAM_HEADERS, asking, json_response, passthrough, sent_json
from . import api, chat_models, guard, images, titles
from .answers import Answers, StreamPosition, follow, stored

if TYPE_CHECKING:
    from ...store.conversations import StoredConversation, StoredMessage


# What an empty chat offers to try: first what is configured here, then what any model can answer.
OFFERED = 4
PLAIN = ("explain", "write", "code", "plan")

WHERE = "options."
LONGEST_ANSWER = 4096  # tokens of an answer, if the page sets no other maximum
# In the settings of a conversation: the model of its next question, and the end of its open branch.
MODEL, LEAF = "model", "leaf"


def templates(layouts: Layouts) -> dict[Kind, tuple[str, ...]]:
    names = {kind: layouts.names(folder) for kind, folder in FOLDERS.items()}
    return {kind: tuple(name for name in names[kind] if name != EMPTY) for kind in names}


def messages_of(branch: Sequence[StoredMessage]) -> list[Message]:
    return [
        Message(role=turn.role, content=turn.content, media=images.media_of(images.kept(turn)))
        for turn in branch
        if turn.content
    ]


def read(
    options: Mapping[str, Any],
    messages: Sequence[Message],
    layouts: Layouts,
    owner: str,
    session: str,
) -> DialogueRequest:
    """Read `options`, with llama.cpp's names. `messages` end with the question."""
    kind = cast(Kind, fields.choice(options, "kind", FOLDERS, "chat", WHERE))
    template = fields.text(options, "template") or "default"
    if template not in (names := templates(layouts)[kind]):
        raise InvalidParameter("options.template", f"must be one of {', '.join(names)}")
    messages = list(messages)
    history = fields.integer(options, "history", 0, 1000, WHERE)
    if history is not None:
        messages = messages[-(2 * history + 1) :]
    system = fields.text(options, "system").strip()
    if system:
        messages.insert(0, Message(role="system", content=system))
    base = fields.text(options, "base")
    return DialogueRequest(
        kind=kind,
        messages=tuple(messages),
        model=fields.text(options, "model"),
        sampling=sampling(fields.mapping(options, "sampling", WHERE)),
        template=template,
        max_tokens=fields.integer(options, "max_tokens", 1, 1 << 20, WHERE),
        bases=(base,) if base else (),
        top_k=fields.integer(options, "top_k", 1, 50, WHERE) or 3,
        score_threshold=api.share(options, "score_threshold", WHERE),
        engine=fields.text(options, "engine"),
        owner=owner,
        session=session,
    )


blueprint = Api("chat", __name__, group="pages", ledger="pages")
RUNNING = "Ollama is running"  # clients of Ollama look for this at /


@blueprint.before_request
def tell_clients() -> Response | None:
    """Answer GET / of a client that is not a browser."""
    if request.endpoint != "chat.page" or guard.wants_page():
        return None
    return Response(RUNNING, content_type="text/plain; charset=utf-8")


guard.protect(blueprint)

API = "/pages/api/chat"
TALKS = 50  # conversations per page
LONGEST = 100_000  # characters of a question
TITLE = 200  # characters
MOST_FOLDERS = 100  # of a key
LONGEST_FOLDER = 60  # characters of the name of one
_answers = Answers()


@blueprint.get("/")
def page() -> str:
    services = current_services()
    if not services.gateway.registry.models():
        raise NoBackend(
            "no backend is configured: set --llama-api URL, or run slotproxy init", retry_after=10.0
        )
    models = chat_models.names(services, request.environ)
    seen = [name for name in models if services.gateway.accepts_images(name)]
    owner = api.owner()
    knowledge = permissions.knowledge(services, request.environ)
    all_bases = knowledge.bases(owner) if knowledge is not None else ()
    bases = [base for base in all_bases if not base.temporary]
    files, dialogues = services.knowledge is not None, services.dialogues
    configured = {
        "files": files,
        "base": bool(bases),
        "image": bool(seen),
        "search": bool(dialogues.engines),
        "tools": "calculator" in dialogues.tools,
    }
    offers = [name for name, there in configured.items() if there][: OFFERED - 1]
    return render_template(
        "chat.html",
        missing=services.conversations is None,
        files=files,
        bases=bases,
        engines=dialogues.engines,
        tools=dialogues.tools,
        templates=templates(services.layouts),
        talks=TALKS,
        owner=owner,
        models=models,
        seen=seen,
        ears=chat_models.ears(services, request.environ),
        # One more replaces that of an image, while the chosen model sees none.
        offers=[*offers, *PLAIN][: OFFERED + ("image" in offers)],
        longest=LONGEST_ANSWER,
        shares=services.keys.is_given(owner, "share"),
    )


@blueprint.get(f"{API}/models")
def models() -> Response:
    api.owner()
    services, environ = current_services(), request.environ
    unread = chat_models.unread(services, environ)
    return json_response({"models": chat_models.models(services, environ), "unread": unread})


# -- conversations


@blueprint.post(f"{API}/heard", group="media", ledger="audio")
def heard() -> Response:
    """The text of a recording, as that of /v1/audio/transcriptions."""
    return forwarded(current_services(), Record.of(request.environ), HEARD[0])


@blueprint.get(f"{API}/conversations")
def conversations() -> Response:
    """Conversations, perhaps with `?search=`, `?before=` a time, `?folder=`, `?pinned=1`."""
    if request.args.get("pinned"):
        return json_response(api.conversations().pinned(api.owner()))
    search, before = request.args.get("search", ""), request.args.get("before", type=float)
    folder = request.args.get("folder")
    return json_response(api.conversations().recent(api.owner(), search, TALKS, before, folder))


@blueprint.post(f"{API}/conversations")
def create() -> Response:
    return json_response(api.conversations().create(api.owner()), 201)


@blueprint.delete(f"{API}/conversations")
def clear() -> Response:
    store, owner = api.conversations(), api.owner()
    _answers.stop(owner)
    for conversation in store.recent(owner, limit=None):
        _forget_files(owner, conversation)
    store.clear(owner)
    return api.done()


@blueprint.get(f"{API}/conversations/<conversation>")
def conversation(conversation: str) -> Response:
    return json_response(api.conversations().get(api.owner(), conversation))


@blueprint.put(f"{API}/conversations/<conversation>")
def change(conversation: str) -> Response:
    """Change some of `{"title", "pinned", "folder", "model", "leaf"}`."""
    body, store, owner = sent_json(), api.conversations(), api.owner()
    title = fields.text(body, "title").strip()[:TITLE] if "title" in body else None
    names = filter(body.__contains__, (MODEL, LEAF))
    changed: dict[str, Any] = {name: fields.text(body, name)[:TITLE] for name in names}
    if "pinned" in body:
        changed[PINNED] = fields.flag(body, "pinned")
    if "folder" in body:
        changed[FOLDER] = folder_name(owner, body, "folder")
    edit = titles.final if title else dict
    chat = store.change(owner, conversation, title, lambda before: {**edit(before), **changed})
    return json_response(chat)


@blueprint.delete(f"{API}/conversations/<conversation>")
def delete(conversation: str) -> Response:
    store, owner = api.conversations(), api.owner()
    chat = store.get(owner, conversation)
    _answers.stop(owner, chat.id)
    _forget_files(owner, chat)
    store.delete(owner, chat.id)
    return api.done()


@blueprint.get(f"{API}/conversations/<conversation>/messages")
def messages(conversation: str) -> Response:
    messages = api.conversations().messages(api.owner(), conversation)
    return json_response([images.shown(message) for message in messages])


@blueprint.delete(f"{API}/messages/<message>")
def remove(message: str) -> Response:
    """Delete a question with its answers, or an answer with what follows it."""
    owner = api.owner()
    for gone in api.conversations().remove(owner, message):
        if growing := _answers.get(owner, gone):
            growing.cancel.cancel()
    return api.done()


# -- folders: names in the settings of conversations, which exist as long as one of them has them


def folder_name(owner: str, body: Mapping[str, Any], field: str) -> str:
    """Read the name of a folder, which may be a new one. Raises InvalidParameter."""
    name = " ".join(fields.text(body, field).split())
    if len(name) > LONGEST_FOLDER or not name.isprintable():
        raise InvalidParameter(field, f"must have at most {LONGEST_FOLDER} printable characters")
    names = api.conversations().folders(owner)
    if name and name not in names and len(names) >= MOST_FOLDERS:
        raise InvalidParameter(field, f"is one too many: there may be {MOST_FOLDERS} folders")
    return name


@blueprint.get(f"{API}/folders")
def folders() -> Response:
    return json_response(api.conversations().folders(api.owner()))


@blueprint.put(f"{API}/folders")
def rename_folder() -> Response:
    """Rename a folder: `{"folder", "name"}`. The name "" leaves its conversations in no folder."""
    body, owner = sent_json(), api.owner()
    name = folder_name(owner, body, "name")
    api.conversations().rename_folder(owner, fields.filled(body, "folder"), name)
    return api.done()


# -- questions and answers


@blueprint.post(f"{API}/conversations/<conversation>/ask")
def ask(conversation: str) -> Response:
    """Ask `{"text"}` under `parent_id`, with `images`, or `images_of` another message; or answer a
    question `again`. `title`: the model writes the title of a new conversation, if it has an idle
    slot. `compared`: the conversation keeps its model and branch."""
    services, store = current_services(), api.conversations()
    owner, body = api.owner(), sent_json()
    chat = store.get(owner, conversation)
    again = fields.text(body, "again")
    chosen = dict(fields.mapping(body, "options"))
    if chosen.get("kind") == "knowledge" and chosen.get("base") == "files":
        chosen["base"] = _base_of(chat)
    question: StoredMessage | None = None
    text, parent, pictures = "", None, images.read(body)
    if again:
        question = store.message(owner, again)
        if question.role != "user" or question.conversation_id != chat.id:
            raise InvalidParameter("again", "is not a question in this conversation")
        history = messages_of(store.path(owner, question.id))
    else:
        text = fields.text(body, "text").strip()
        if not text or len(text) > LONGEST:
            raise InvalidParameter("text", f"must have 1 to {LONGEST} characters")
        parent = fields.text(body, "parent_id") or None
        before = store.path(owner, parent) if parent else ()
        if other := fields.text(body, "images_of"):
            pictures = images.kept(store.message(owner, other))
        asked_now = Message(role="user", content=text, media=images.media_of(pictures))
        history = [*messages_of(before), asked_now]
    dialogue = _bounded(read(chosen, history, services.layouts, owner, chat.id))

    if pictures and not services.gateway.accepts_images(dialogue.model):
        raise InvalidParameter("images", "is not supported: this model does not accept images")

    def keep() -> StoredMessage:
        nonlocal question
        if question is None:
            extra = {images.NAME: pictures} if pictures else {}
            question = store.add(owner, chat.id, "user", text, parent, extra=extra)
            if not chat.title:
                plain = {titles.PLAIN: True}
                store.change(owner, chat.id, titles.plain(text), lambda s: {**s, **plain})
        begun = {"kind": dialogue.kind, "model": dialogue.model}
        answer = store.add(owner, chat.id, "assistant", "", question.id, "growing", begun)
        place = {MODEL: dialogue.model, LEAF: answer.id}
        if fields.flag(body, "compared"):
            return answer
        store.change(owner, chat.id, edit=lambda before: {**before, **place})
        return answer

    answer = _begin(keep, dialogue, titled=fields.flag(body, "title"))
    assert question is not None, "this message already has an answer"
    return json_response({"question": images.shown(question), "answer": answer}, 201)


@blueprint.post(f"{API}/answers/<message>/continue")
def continue_(message: str) -> Response:
    """Continue an answer without sources or tools that was stopped or cut off."""
    services, store = current_services(), api.conversations()
    owner, body = api.owner(), sent_json()
    *before, answer = store.path(owner, message)
    if not before or not answer.content or answer.extra.get("kind", "chat") != "chat":
        raise InvalidParameter("message", "must be an answer with text and without sources")
    chosen = {**fields.mapping(body, "options"), "kind": "chat"}
    history = messages_of(before)
    dialogue = _bounded(read(chosen, history, services.layouts, owner, answer.conversation_id))
    dialogue = replace(dialogue, begun=answer.content)
    return json_response({"answer": _begin(lambda: store.reopen(owner, answer.id), dialogue)}, 201)


def _bounded(dialogue: DialogueRequest) -> DialogueRequest:
    """Bound an answer without a maximum: a server may refuse one that does not fit."""
    if dialogue.max_tokens is not None:
        return dialogue
    registry = current_services().gateway.registry
    pool = registry.pool(registry.resolve(dialogue.model)[0])
    context = max((backend.n_ctx for backend in pool), default=0)
    prompt = sum(len(message.content.encode()) for message in dialogue.messages) // 2  # roughly
    if context and context - prompt < LONGEST_ANSWER:
        return dialogue
    return replace(dialogue, max_tokens=LONGEST_ANSWER)


def _begin(
    keep: Callable[[], StoredMessage], dialogue: DialogueRequest, *, titled: bool = False
) -> StoredMessage:
    """Begin the answer into the message of `keep`. `titled`: a title follows. Raises QueueFull."""
    services, store, owner = current_services(), api.conversations(), api.owner()
    caller = services.callers.caller(owner, request.environ)
    caller = replace(caller, tell_place=True)
    record = Record(request.environ)
    record.key, record.user, record.team = owner, caller.user, caller.team
    record.stream, record.route = True, str(request.url_rule)
    record.shown = permissions.shown_names(services, owner)

    def title(message: StoredMessage) -> None:
        if titled:
            titles.TitleJob(services, store, dialogue, message.id, caller, record.peer).run()

    message = _answers.begin(services, store, keep, dialogue, caller, record, title)
    Record.of(request.environ).quiet = True  # the line of the answer says more
    return message


@blueprint.get(f"{API}/answers/<message>/events")
def events(message: str) -> Response:
    """Stream the events of an answer; of a finished one, what is left. Raises NotFound."""
    store, owner = api.conversations(), api.owner()
    seen = StreamPosition.read(request.headers.get("Last-Event-ID", ""))
    growing = _answers.get(owner, message)
    if growing is None:
        store.message(owner, message)
    states = growing.states() if growing is not None else stored(store, owner, message)
    return passthrough(follow(states, seen), "text/event-stream", [*STREAM_HEADERS])


@blueprint.post(f"{API}/answers/<message>/stop")
def stop(message: str) -> Response:
    store, owner = api.conversations(), api.owner()
    growing = _answers.get(owner, message)
    if growing is not None:
        growing.cancel.cancel()
    elif store.message(owner, message).status == "growing":
        store.finish(message, "stopped")  # seen by the worker that writes it, if that still runs
    return api.done()


@blueprint.post(f"{API}/answers/<message>/hurry")
def hurry(message: str) -> Response:
    """End the reasoning of an answer that this process writes."""
    if (growing := _answers.get(api.owner(), message)) is not None:
        growing.cancel.hurried = True
    return api.done()


@blueprint.post(f"{API}/warm")
def warm() -> Response:
    """Prewarm the question `{"text", "parent_id", "conversation", "options"}` while it is typed
    (see `gateway.prewarm`), as far as that costs nothing: a plain chat, a model that is loaded, no
    server that may take money for it, and no limits that would count it."""
    services, owner, body = current_services(), api.owner(), sent_json()
    store, parent = api.conversations(), fields.text(body, "parent_id")
    question = Message(role="user", content=fields.text(body, "text").strip()[:LONGEST])
    before = messages_of(store.path(owner, parent)) if parent else []
    options, session = fields.mapping(body, "options"), fields.text(body, "conversation")
    dialogue = read(options, [*before, question], services.layouts, owner, session)
    caller = services.callers.caller(owner, request.environ)
    gateway, record = services.gateway, Record.of(request.environ)
    model = dialogue.model
    if dialogue.kind != "chat" or caller.allowance is not None or must_load(gateway, model):
        return api.done()
    if gateway.registry.ruled(model):  # the whole question chooses the model
        return api.done()
    chat = services.dialogues.chat(dialogue, caller)
    pool = gateway.registry.pool(gateway.registry.resolve(chat.model)[0])
    if any(backend.caps is None or backend.caps.native for backend in pool):
        return api.done()
    record.key, record.user, record.team = owner, caller.user, caller.team
    record.route, record.status = str(request.url_rule), 204
    with asking(services, record, request.environ) as cancel:
        try:
            with contextlib.closing(prewarm(gateway, chat, cancel, caller)) as answer:
                record.info = answer.info
                fold(answer)
        except GatewayError as error:  # the question itself will tell
            record.info.outcome = record.info.outcome or error.code or error.type
    return api.done()


# -- files of a conversation, in a temporary knowledge base of its own

FILES = f"{API}/conversations/<conversation>/files"
SETTING = "files"  # in a conversation's settings: the id of its base


def _base_of(conversation: StoredConversation) -> str:
    """Return the id of the conversation's base. Raises InvalidParameter if it has none."""
    base = conversation.settings.get(SETTING)
    if not base:
        raise InvalidParameter("options.base", "this conversation has no files")
    return str(base)


def _forget_files(owner: str, conversation: StoredConversation) -> None:
    knowledge, base = current_services().knowledge, conversation.settings.get(SETTING)
    if knowledge is not None and base:
        with contextlib.suppress(NotFound):  # the base has expired
            knowledge.delete(owner, str(base))


@blueprint.get(FILES)
def files(conversation: str) -> Response:
    """List the conversation's files and their state; empty if the base has expired."""
    knowledge, store, owner = api.knowledge(), api.conversations(), api.owner()
    base = store.get(owner, conversation).settings.get(SETTING)
    try:
        documents = knowledge.documents(owner, base) if base else ()
    except NotFound:
        documents = ()
    return json_response(documents)


@blueprint.post(FILES)
def add_file(conversation: str) -> Response:
    """Add a file: the body is its content, `?name=` its name. Replaces a file of the same name."""
    knowledge, store, owner = api.knowledge(), api.conversations(), api.owner()
    chat = store.get(owner, conversation)
    name = request.args.get("name", "")
    base = chat.settings.get(SETTING)
    with body.spooled(request.environ, current_services().settings.max_document) as data:
        try:
            if not base:
                raise NotFound("no file was attached yet")
            document = knowledge.add(owner, str(base), name, data, replace=True)
        except NotFound:  # or the base has expired
            base = _new_base(owner, chat.id, instead_of=base)
            document = knowledge.add(owner, base, name, data, replace=True)
    return json_response(document, 201)


def _new_base(owner: str, conversation: str, instead_of: str | None) -> str:
    """Give the conversation a base, unless another request has just done so. Returns its id."""
    knowledge = api.knowledge()
    made = knowledge.create(owner, "", temporary=True).id

    def choose(settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return settings if settings.get(SETTING) != instead_of else {**settings, SETTING: made}

    chosen = str(api.conversations().change(owner, conversation, edit=choose).settings[SETTING])
    if chosen != made:
        knowledge.delete(owner, made)
    return chosen


@blueprint.delete(f"{FILES}/<document>")
def remove_file(conversation: str, document: str) -> Response:
    knowledge, store, owner = api.knowledge(), api.conversations(), api.owner()
    knowledge.remove(owner, _base_of(store.get(owner, conversation)), document)
    return api.done()
