"""How likely, and how soon, conversations return, and which belong to one session.

After a text, the client waits for a person. For each number of turns, `Returns` counts the
conversations that reached it and those that continued, and keeps a running mean of the gaps. The
longer a conversation is silent, the less likely it returns: with exponentially distributed gaps,
Bayes' rule gives the chance. After a tool call, the client runs the tool and returns by itself.

An agent, its sub-agents and its requests for titles have one session id and different prompts. So
prompts identify the conversations, and the session, under the name that its client gives, says
which of them is the main one:

1. A conversation with tools comes before one without.
2. Of two with tools, the one that begins later or has more turns, unless the main one is in a tool
   call: then the other is its sub-agent. Otherwise the client has begun anew, or has shortened its
   prompt.
3. Of two without tools, the one with more turns.

The main conversation is as recent as any of its session, because it waits for its sub-agents. The
others mostly end with their last text.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from hashlib import blake2b

from msgspec import Struct, field

from .state import ConversationRecord, SlotRequest

DEEPEST = 64  # numbers of turns counted separately; longer conversations count as this many
BESIDE = 0  # the place of conversations beside the main one of their session
SMOOTH = 0.1  # weight of the newest observation in a running mean
FIRST = 10  # observations that weigh alike in it, 1 / SMOOTH
USUAL = 2.0  # seconds that a tool takes, about
HELD = 3.0  # seconds from a tool call for which its slot is held
ALIVE = 60.0  # seconds of silence after which a return from a tool call is a third as likely
USUALLY = 0.95  # the chance of that return
AT_MOST = 0.99  # the chance that any conversation returns: silence must be able to lower it


class Returns(Struct, array_like=True):
    """The statistics of a pool, by the number of turns."""

    reached: list[float] = field(default_factory=lambda: [0.0] * (DEEPEST + 1))
    continued: list[float] = field(default_factory=lambda: [0.0] * (DEEPEST + 1))
    gap: float = 60.0  # mean seconds between the end of a text and the next turn
    gaps: int = 0  # of which it is the mean, at most FIRST

    def __post_init__(self) -> None:
        if not (len(self.reached) == len(self.continued) == DEEPEST + 1 and self.gap > 0):
            raise ValueError("counts of returns are broken")

    def turn(self, conversation: ConversationRecord, arrived: float) -> None:
        """Count a new turn of this conversation, whose request arrived at this time."""
        turns, beside = conversation.turns, conversation.beside
        if turns and not conversation.calls:
            gap = max(1e-3, arrived - conversation.last)
            self.continued[BESIDE if beside else min(turns, DEEPEST)] += 1
            self.gaps = min(FIRST, self.gaps + 1)
            self.gap += (gap - self.gap) / self.gaps
        conversation.turns = turns = turns + 1
        conversation.calls, conversation.open = False, True
        self.reached[BESIDE if beside else min(turns, DEEPEST)] += 1

    def called(self, conversation: ConversationRecord) -> None:
        """Record the end of a turn with tool calls."""
        conversation.calls = conversation.open = True
        # Only turns that end with a text are counted by their number.
        place = _place(conversation)
        self.reached[place] = max(0.0, self.reached[place] - 1)

    def chance(self, conversation: ConversationRecord, now: float) -> float:
        """The probability that this conversation returns, given its silence so far."""
        if conversation.background:
            return 0.0
        if conversation.waiting:
            return 1.0
        place = _place(conversation)
        if conversation.calls or not conversation.turns:  # prewarmed for one that comes
            likely, gap = USUALLY, max(ALIVE, self.gap)
        elif conversation.beside and not conversation.open:
            likely, gap = (self.continued[place] + 0.5) / (self.reached[place] + 4), self.gap
        else:
            likely, gap = (self.continued[place] + 4) / (self.reached[place] + 5), self.gap
        likely = min(AT_MOST, likely)
        silence = max(0.0, now - max(conversation.last, conversation.session_last))
        silent = likely * math.exp(-silence / gap)
        return silent / (silent + 1 - likely) if silent else 0.0


def held_until(conversation: ConversationRecord) -> float:
    """Until when a slot is held for the return from a tool call; 0 without a call."""
    return conversation.last + HELD if conversation.calls else 0.0


def _place(conversation: ConversationRecord) -> int:
    return BESIDE if conversation.beside else min(conversation.turns, DEEPEST)


NAMED = 16  # bytes in the digest of a session name
REMEMBERED = 4096  # sessions of a pool
PATIENCE = 600.0  # seconds after which a call without a return no longer keeps its place


def named(request: SlotRequest) -> bytes:
    """The digest of the name of a request's session. Each group has its own names."""
    name = f"{request.group}\0{request.session}"
    return blake2b(name.encode("utf-8", "replace"), digest_size=NAMED).digest()


class Sessions(Struct):
    """The main conversation of each session of a pool, the least recently used first."""

    main: OrderedDict[bytes, ConversationRecord] = field(default_factory=OrderedDict)

    def turn(self, session: bytes, conversation: ConversationRecord, now: float) -> None:
        main = self.main.get(session)
        conversation.session = session
        if main is None or _leads(conversation, main, now):
            if main is not None and main is not conversation:
                main.beside, main.session_last = True, 0.0
            self.main[session] = main = conversation
            conversation.beside = False
        elif conversation is not main:
            conversation.beside = True
        main.session_last = now
        self.main.move_to_end(session)
        if len(self.main) > REMEMBERED:
            self.main.popitem(last=False)

    def is_side_job(self, session: bytes, conversation: ConversationRecord, tools: bool) -> bool:
        """Whether a request asks something beside an agent's work, such as a title: it has no
        tools, and begins a conversation in a session whose main one has them."""
        main = self.main.get(session)
        return main is not None and main.tools and not tools and not conversation.turns


def _leads(conversation: ConversationRecord, main: ConversationRecord, now: float) -> bool:
    """Whether a conversation takes the place of the main one."""
    if conversation.tools != main.tools:
        return conversation.tools
    if conversation.tools:
        free = not main.open or now - main.last > PATIENCE
        return free and (not conversation.turns or conversation.turns >= main.turns)
    return conversation.turns > main.turns
