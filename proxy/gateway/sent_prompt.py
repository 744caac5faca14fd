"""The prompt of a task as its model gets it, to be counted or shown: for some chats, it is what the
server's own chat route makes of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from operator import attrgetter
from time import monotonic, thread_time

from msgspec.structs import replace

from ..backends.pools import Backend
from ..core.request import CompletionRequest, Media, Message
from ..core.task import Task
from ..errors import BadRequest, Unsupported, UpstreamFault, UpstreamTimeout
from ..prompting.prompt import Prompter
from ..runtime.blocking import give_way, run_in_native_thread
from ..runtime.cancel import Cancel
from .adapt import constraint_of, in_mode

# Renders prompts, on the event loop if that is fast, otherwise in a native thread.
#
# A template is a stranger's program. The sandbox bounds its work, so it ends; how long it takes
# is measured. The first prompt of a template is rendered in a thread, and so are the next ones
# after a slow one, but not all: a garbage collection makes any template slow for once.
SLOW = 0.02  # seconds
AFTER_SLOW = 100  # renderings in a thread after a slow one
# Longer conversations are always rendered in a thread:
LONG = 512  # messages
LARGE = 512 << 10  # characters
_CONTENT = attrgetter("content")


def rendered(prompter: Prompter | Task, request: CompletionRequest, now: datetime) -> Task:
    """Render the prompt of a request. Raises InvalidParameter if the template refuses it."""
    if isinstance(prompter, Task):
        return replace(
            prompter,
            sampling=request.sampling,
            max_tokens=request.max_tokens,
            stop_strings=request.stop,
            logprobs=request.logprobs,
            request=request,
        )

    messages = request.messages
    if len(messages) >= LONG or sum(map(len, map(_CONTENT, messages))) > LARGE:
        # Its time tells nothing of shorter ones.
        return run_in_native_thread(partial(prompter.render, request, now))
    if not prompter.in_thread:
        began = monotonic()
        try:
            return prompter.render(request, now)
        finally:
            if monotonic() - began > SLOW:  # or another thread held the interpreter: the next tells
                prompter.in_thread = 1

    def timed() -> Task:
        began = thread_time()  # a thread also waits for others
        try:
            return prompter.render(request, now)
        finally:
            slow = thread_time() - began > SLOW
            # Several may render at once: the count never falls below zero.
            prompter.in_thread = AFTER_SLOW if slow else max(0, prompter.in_thread - 1)

    return run_in_native_thread(timed)


# Checks images and sound in messages before they go to a backend.
#
# Only data that the client sends itself is accepted: with an address, the client could make the
# backend fetch any URL.
IMAGE = re.compile(r"data:image/(?:png|jpe?g|webp|gif|bmp);base64,")
DIGITS = re.compile(r"[A-Za-z0-9+/]+")
BASE64 = re.compile(DIGITS.pattern + "={0,2}")
PIECE = 1 << 20  # characters that are checked in one go; no piece begins within four digits
SOUNDS = ("wav", "mp3")
MEDIA = attrgetter("media")


def check_media(messages: Sequence[Message], limit: int) -> frozenset[str]:
    """The kinds of media in the messages. Raises BadRequest for invalid media, or more than `limit`
    bytes."""
    kinds: set[str] = set()
    for i, message in enumerate(messages):
        for media in message.media:
            kinds.add(media.kind)
            wrong = _wrong(media, limit)
            if wrong:
                raise BadRequest(
                    f"messages[{i}]: the {media.kind} {wrong}", param=f"messages[{i}].content"
                )
    return frozenset(kinds)


def _wrong(media: Media, limit: int) -> str:
    data, start = media.data, 0
    if media.kind == "image":
        head = IMAGE.match(media.url)
        if head is None:
            return "must be a data: URL of a png, jpeg, webp, gif or bmp in base64"
        data, start = media.url, head.end()  # without a copy, which takes 25 ms for 20 MB
    elif media.format not in SOUNDS:
        return f"must have the format {' or '.join(SOUNDS)}"
    if (len(data) - start) * 3 // 4 > limit + 2:
        return f"is larger than {limit} bytes"
    return "" if _is_base64(data, start) else "is not valid base64"


def _is_base64(data: str, start: int) -> bool:
    """Whether all from `start` on is base64. Other greenlets run meanwhile: 20 MB take 60 ms."""
    for at in range(start, len(data), PIECE):
        if at > start:
            give_way()
        form = BASE64 if at + PIECE >= len(data) else DIGITS
        if not form.fullmatch(data, at, at + PIECE):
            return False
    return len(data) > start and (len(data) - start) % 4 == 0


ANYTHING = "root ::= [^\\x00]*"  # in place of a grammar, whose presence alone changes a prompt


def with_sent_prompt(task: Task, backend: Backend, cancel: Cancel | None = None) -> Task:
    """The task with the server's prompt if it goes to the server's own chat route, for which the
    model is loaded. Our own prompt remains if the server does not tell, and beside pictures and
    sounds, whose tokens no text has. Raises the errors of a load, and Cancelled."""
    caps = backend.caps
    if caps is None or caps.native or not task.request.is_chat or task.media:
        return task
    sent = in_mode(task, backend, caps)
    if not sent.backend_templates:
        return task
    sampling = dict(task.sampling)
    if not sent.is_unconstrained and constraint_of(sent, caps) is not None:
        sampling.setdefault("grammar", ANYTHING)
    probe = replace(sent, max_tokens=1, sampling=sampling)
    driver = backend.driver
    if caps.provisional:
        for _ in driver.load(cancel or Cancel()):
            pass
    try:
        prompt = driver.server_prompt(probe)
    except (Unsupported, UpstreamFault, UpstreamTimeout):
        prompt = None
    return task if prompt is None else replace(task, prompt=prompt, breaks=())


def count_sent_prompt(
    task: Task, backend: Backend, cancel: Cancel | None = None, limit: int = 0
) -> int:
    """The tokens of the prompt that the backend gets. Raises ContextExceeded as soon as there are
    `limit` or more (0: no limit), and like `with_sent_prompt`."""
    task = with_sent_prompt(task, backend, cancel)
    ids = backend.driver.prompt_ids(task, cancel)
    return backend.counter.count_prompt(task, cancel, limit) if ids is None else len(ids)
