"""Sessions: the conversations of one agent, under the name that its client gives.

An agent, its sub-agents and its requests for titles have one session id and different prompts. So
prompts identify the conversations, and the session says which of them is the main one:

1. A conversation with tools comes before one without.
2. Of two with tools, the one that begins later or has more turns, unless the main one is in a tool
   call: then the other is its sub-agent. Otherwise the client has begun anew, or has shortened its
   prompt.
3. Of two without tools, the one with more turns.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from msgspec import Struct, field

from .state import ConversationRecord, SlotRequest

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
