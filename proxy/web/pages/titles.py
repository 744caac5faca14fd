"""Titles of conversations that a model writes, in an idle slot after an answer.

Until then, a title is the beginning of the question. The request never takes a slot with a prompt
that may be needed. If it finds none for a minute, the next answer is followed by another.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from ...core.fold import fold
from ...core.request import CompletionRequest, Message
from ...dialogue.events import DialogueRequest
from ...errors import Cancelled, Ended, GatewayError, NoIdleSlot
from ...gateway import Caller
from ...runtime.cancel import Cancel
from ..observability import Record
from ..services import Services

if TYPE_CHECKING:
    from ...store.conversations import ConversationStore  # imports SQLAlchemy, of an extra

PLAIN = (
    "plain_title"  # true in the settings of a conversation whose title is a question's beginning
)
BEGINNING = 60  # characters of such a title
PAUSES = (0.0, 5.0)  # seconds before each try, which looks for a slot for half a minute
MOST = 32  # conversations that wait for a title at once
READ = 1500  # characters of the question, and of the answer, that the model reads
WORDS, LONGEST = 8, 60  # of a title; the model is asked for six words
ROUTE = "/pages/api/chat/title"
PROMPT = """### Task:
Write a title for this conversation: at most six words, in the language of the conversation.
Answer with the title alone, without quotation marks.

Question: {question}

Answer: {answer}"""
QUOTES = r"\s#*`\"'\u00ab\u00bb\u201c-\u201e\u300a-\u300f"  # and marks of Markdown
AROUND = rf"(?i)^(?:[{QUOTES}]|title:)+|[{QUOTES}.\u3002]+$"
# Markdown within a title, and the group that stays of each.
NOTE = r"\[\^[^\]]*\]:?"
LINK = r"!?\[([^\]]*)\](?:\([^()]*\)|\[[^\]]*\])"
EMPHASIS = r"(\*\*|`+|(?<!\w)\*)(?=\S)(.+?)(?<=\S)\1"
READ_OF_LINE = 400  # characters
_waiting: set[str] = set()


def is_plain(settings: Mapping[str, Any]) -> bool:
    return settings.get(PLAIN) is True


def final(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a conversation once it has a title that stays."""
    return {name: value for name, value in settings.items() if name != PLAIN}


class TitleJob(Struct, frozen=True):
    """The title of one conversation, after this question and its answer."""

    services: Services
    store: ConversationStore
    request: DialogueRequest
    answer: str  # its id
    caller: Caller
    peer: str

    def run(self) -> None:
        """Ask for the title, unless another request for it waits."""
        conversation = self.request.session
        if conversation in _waiting or len(_waiting) >= MOST:
            return
        _waiting.add(conversation)
        try:
            with contextlib.suppress(GatewayError):  # the plain title stays
                for pause in PAUSES if self._may() else ():
                    time.sleep(pause)
                    try:
                        return self._give()
                    except (NoIdleSlot, Cancelled) as error:  # others need the slot
                        if isinstance(error, Ended):
                            raise
        finally:
            _waiting.discard(conversation)

    def _may(self) -> bool:
        """Whether a slot and half of each limit are free. Raises ModelNotFound."""
        registry, scheduler = self.services.gateway.registry, self.services.gateway.scheduler
        allowance = self.caller.allowance
        backends = registry.pool(registry.resolve(self.request.model)[0])
        slots = sum(scheduler.slots(backend.name) or 0 for backend in backends)
        states = allowance.states if allowance is not None else ()
        return slots > 1 and all(2 * state.remaining >= state.limit for state in states)

    def _give(self) -> None:
        """Raises NoIdleSlot."""
        owner, conversation = self.request.owner, self.request.session
        if not is_plain(self.store.get(owner, conversation).settings):
            return
        question = self.request.messages[-1].content[:READ]
        answer = self.store.message(owner, self.answer).content[:READ]
        if title := cleaned(self._written(PROMPT.format(question=question, answer=answer))):
            self.store.change(owner, conversation, title, final, when=is_plain)

    def _written(self, prompt: str) -> str:
        """The model's answer, "" if it did not end."""
        services, cancel = self.services, Cancel()
        request = CompletionRequest(
            model=self.request.model,
            messages=(Message(role="user", content=prompt),),
            sampling={"temperature": 0.2},
            max_tokens=40,
            reasoning_effort="none",
        )
        # The rest of the question's request, as far as limits are concerned.
        caller = replace(self.caller, idle=True, background=True, on_overflow="refuse")
        record = Record({"PATH_INFO": ROUTE, "REQUEST_METHOD": "POST", "REMOTE_ADDR": self.peer})
        record.key, record.user, record.team = self.request.owner, caller.user, caller.team
        record.route = ROUTE
        services.observer.begin(record, cancel)
        try:
            request = services.dialogues.preset(request, caller)
            answer = services.gateway.answer(request, cancel, caller)
            record.info = answer.info
            try:
                (completion,) = fold(answer)
            finally:
                answer.close()
            record.status = 200
            is_cut = completion.finished.reason == "length"  # it did more than it was asked to
            return "" if is_cut else completion.text
        except GatewayError as error:
            record.status, record.info.outcome = error.status, error.code or error.type
            raise
        finally:
            services.observer.finish(record)


def plain(question: str) -> str:
    """The title until there is another."""
    return " ".join(question.split())[:BEGINNING]


def cleaned(text: str) -> str:
    """The title that a model wrote; "" if it is none."""
    lines = [line for line in text.splitlines() if line.strip()]
    text = re.sub(NOTE, "", lines[0][:READ_OF_LINE]) if lines else ""
    text = re.sub(LINK, r"\1", text)
    text = re.sub(EMPHASIS, r"\2", re.sub(EMPHASIS, r"\2", text))
    title = " ".join(re.sub(AROUND, "", re.sub(AROUND, "", text)).split())
    fits = len(title) <= LONGEST and len(title.split()) <= WORDS and title.isprintable()
    return title if fits else ""
