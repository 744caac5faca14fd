"""How likely, and how soon, conversations return.

After a text, the client waits for a person. For each number of turns, `Returns` counts the
conversations that reached it and those that continued, and keeps a running mean of the gaps. The
longer a conversation is silent, the less likely it returns: with exponentially distributed gaps,
Bayes' rule gives the chance.

After a tool call, the client runs the tool and returns by itself, mostly within seconds. Those gaps
are kept for each client and tool (`ToolCalls`), and Bayes' rule is applied to them as they are.

In a session of an agent (`sessions`), the main conversation is as recent as any of its session,
because it waits for its sub-agents. The others mostly end with their last text.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from hashlib import blake2b

from msgspec import Struct

from .prefix import Chain
from .state import ClientClass, ConversationRecord

# Prefixes that several conversations share, such as system prompts, and how often they are
# needed.
#
# The chance that a prefix is needed again grows with the number of conversations that began with
# it, and falls while none does, compared with the usual gap between two of them.
RETURNS_REMEMBERED = 1024  # prefixes of a pool
RECENT = 4096  # links of recent prompts, of which each may be shared by the next
FIRST_SHARED = 2  # conversations that make a prefix a shared one
GAP = 60.0  # seconds between two conversations with a prefix, before that is known
SHORTEST = 10.0  # seconds that count as the usual gap, at least: a busy hour may pause
PATIENCE = 3.0  # usual gaps of silence after which a prefix is a third as likely to be needed


class SharedPrefix(Struct, array_like=True):
    """`tokens` of a prefix, and the `conversations` that began with it: the last one at `last`,
    one every `gap` seconds."""

    tokens: int
    conversations: int
    gap: float
    last: float

    def __post_init__(self) -> None:
        if not (self.gap >= 0 and self.conversations > 0 and self.tokens >= 0):
            raise ValueError("a shared prefix is broken")

    def begun(self, now: float) -> None:
        """Count a conversation that begins with this prefix."""
        self.gap += SMOOTH * (max(0.0, now - self.last) - self.gap)
        self.conversations += 1
        self.last = now

    def chance(self, now: float) -> float:
        """The probability that another conversation begins with it."""
        likely = self.conversations / (self.conversations + 1)
        silent = likely * math.exp(
            -max(0.0, now - self.last) / (PATIENCE * max(SHORTEST, self.gap))
        )
        return silent / (silent + 1 - likely)


class SharedPrefixes:
    """The prefixes of a pool by their last link, the least recently needed first. `recent` are the
    links of the newest prompts, so that a prefix is recognized though nothing holds it any more."""

    def __init__(self) -> None:
        self.known: OrderedDict[bytes, SharedPrefix] = OrderedDict()
        self.recent: OrderedDict[bytes, None] = OrderedDict()

    def longest(self, links: tuple[bytes, ...]) -> bytes:
        """The last link of the longest known prefix of a chain, b"" if none is known."""
        if self.known:
            for link in reversed(links):
                if link in self.known:
                    return link
        return b""

    def begin(self, chain: Chain, tokens_a_unit: float, now: float) -> bytes:
        """Count a conversation for the longest prefix that it shares with another; return the last
        link of that, b"" if it shares none. `tokens_a_unit`: of the chain's ends."""
        known, recent = self.known, self.recent
        found = b""
        for depth in range(len(chain.links), 0, -1):
            link = chain.links[depth - 1]
            if link in known:
                known[link].begun(now)
                known.move_to_end(link)
                found = link
                break
            if link in recent:
                tokens = int(chain.ends[depth - 1] * tokens_a_unit)
                known[link] = SharedPrefix(tokens, FIRST_SHARED, GAP, now)
                found = link
                break
        for link in chain.links[:DEEPEST]:
            recent[link] = None
            recent.move_to_end(link)
        while len(recent) > RECENT:
            recent.popitem(last=False)
        if len(known) > RETURNS_REMEMBERED:
            known.popitem(last=False)
        return found


# Recently active clients, so that the last free slot goes to a client with nothing running.
#
# A client here is an API key, split into its small and its large requests: small or rare requests
# always find a slot. A slot is held back only while there is such a client: seen in the last
# `LATELY` seconds and with nothing under way. Side jobs do not count: they take what is spare.
LATELY = 30.0  # seconds
REMEMBERED = 256


class RecentClients:
    def __init__(self) -> None:
        self.seen: OrderedDict[ClientClass, float] = OrderedDict()  # most recent last
        self.under_way: dict[ClientClass, int] = {}

    def arrived(self, client: ClientClass, now: float) -> None:
        seen = self.seen
        seen[client] = now
        seen.move_to_end(client)
        if len(seen) > REMEMBERED:
            seen.popitem(last=False)

    def acquired(self, client: ClientClass) -> None:
        self.under_way[client] = self.under_way.get(client, 0) + 1

    def released(self, client: ClientClass) -> None:
        left = self.under_way[client] - 1
        if left:
            self.under_way[client] = left
        else:
            del self.under_way[client]

    def hogs_last_slot(self, client: ClientClass, now: float) -> bool:
        """Whether it has requests under way while another recent client has none."""
        if not self.under_way.get(client):
            return False
        for other, at in reversed(self.seen.items()):
            if now - at > LATELY:
                return False
            if other != client and not self.under_way.get(other):
                return True
        return False


DEEPEST = 64  # numbers of turns counted separately; longer conversations count as this many
BESIDE = 0  # the place of conversations beside the main one of their session
SMOOTH = 0.1  # weight of the newest observation in a running mean
TOOLS = 1024  # pairs of client and tools that are remembered
NEWEST = 16  # gaps of a pair that are kept
USUAL = 2.0  # seconds that a tool takes, before that is known
ALIVE = 60.0  # seconds without a request after which a session is a third as likely to go on
USUALLY = 0.9  # the chance that a main conversation returns, whose sub-agents work
AT_MOST = 0.99  # the chance that any conversation returns: silence must be able to lower it
FEW = 3  # gaps from which it is known
MOSTLY = 0.9  # share of the gaps for which a slot is held
SLACK = 1.5  # factor of that gap: the next may be a little longer


class ToolCalls(Struct, array_like=True):
    """How often a client called these tools, how often it returned, and the newest gaps, in
    seconds, from the answer with the call to the request with the result."""

    called: float = 0.0
    returned: float = 0.0
    gaps: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (len(self.gaps) <= NEWEST and self.called >= 0 and self.returned >= 0):
            raise ValueError("counts of tool calls are broken")

    @property
    def known(self) -> tuple[float, ...]:
        return self.gaps if len(self.gaps) >= FEW else (USUAL, USUAL)

    def record(self, gap: float) -> None:
        """Count a return after this gap."""
        self.returned += 1
        self.gaps = (*self.gaps[1 - NEWEST :], gap)

    def chance(self, silence: float) -> float:
        """The probability of a return, after so many seconds without one."""
        likely = min(1.0, (self.returned + 9) / (self.called + 10))
        gaps = self.known
        silent = likely * sum(gap > silence for gap in gaps) / len(gaps)
        return silent / (silent + 1 - likely) if silent else 0.0

    def within(self) -> float:
        """The seconds within which most calls return."""
        gaps = sorted(self.known)
        return SLACK * gaps[math.ceil(MOSTLY * len(gaps)) - 1]

    def expected(self, silence: float) -> float:
        """The mean seconds until a return, after so many seconds without one."""
        left = [gap - silence for gap in self.known if gap > silence]
        return sum(left) / len(left) if left else 0.0


UNKNOWN = ToolCalls()


def tool_key(client: str, tools: bytes) -> bytes:
    """The key of these tools, called by this client. `tools` is a digest of their names."""
    return blake2b(client.encode("utf-8", "replace") + b"\0" + tools, digest_size=8).digest()


class Returns:
    """The statistics of a pool."""

    def __init__(self) -> None:
        self.reached = [0.0] * (DEEPEST + 1)
        self.continued = [0.0] * (DEEPEST + 1)
        self.gap = 60.0  # mean seconds between the end of a text and the next turn
        self.gaps = 0
        self.tools: OrderedDict[bytes, ToolCalls] = OrderedDict()

    def restore(self, reached: list[float], continued: list[float], gap: float, gaps: int) -> None:
        """Take over another pool's counts. Raises ValueError if they are invalid."""
        if not len(reached) == len(continued) == DEEPEST + 1 or not gap > 0:
            raise ValueError("counts of returns are broken")
        self.reached, self.continued, self.gap, self.gaps = reached, continued, gap, gaps

    def turn(self, conversation: ConversationRecord, arrived: float, client: bytes = b"") -> None:
        """Count a new turn of this conversation, whose request arrived at this time. `client` is
        the `tool_key` of the client without a tool."""
        turns = conversation.turns
        gap = max(1e-3, arrived - conversation.last)
        if conversation.calls:
            for key in (conversation.calls, client):
                tools = self.tools.get(key)
                if tools is not None:
                    tools.record(gap)
        elif turns:
            self.continued[_place(conversation)] += 1
            self.gaps += 1
            self.gap += max(SMOOTH, 1 / self.gaps) * (gap - self.gap)
        conversation.turns = turns + 1
        conversation.calls, conversation.open = b"", True
        self.reached[_place(conversation)] += 1

    def called(self, conversation: ConversationRecord, calls: bytes, client: bytes) -> None:
        """Record the end of a turn with calls. `calls` is the `tool_key` of the tools, `client`
        that of the client without a tool. New tools begin with the client's newest gaps."""
        conversation.calls, conversation.open = calls, True
        # Only turns that end with a text are counted by their number.
        place = _place(conversation)
        self.reached[place] = max(0.0, self.reached[place] - 1)
        known = self.tools
        gaps = known[client].gaps[-FEW:] if client in known else ()
        for key in (calls, client):
            if key not in known:
                known[key] = ToolCalls(gaps=gaps)
            known[key].called += 1
            known.move_to_end(key)
        while len(known) > TOOLS:
            known.popitem(last=False)

    def chance(self, conversation: ConversationRecord, now: float) -> float:
        """The probability that this conversation returns, given its silence so far."""
        if conversation.background:
            return 0.0
        if conversation.waiting:
            return 1.0
        place = _place(conversation)
        if conversation.beside and not conversation.open:
            likely = (self.continued[place] + 0.5) / (self.reached[place] + 4)
        else:
            likely = (self.continued[place] + 4) / (self.reached[place] + 5)
        likely = min(AT_MOST, likely)
        silence = max(0.0, now - max(conversation.last, conversation.session_last))
        silent = likely * math.exp(-silence / self.gap)
        chance = silent / (silent + 1 - likely) if silent else 0.0
        if conversation.calls:
            tools = self.tools.get(conversation.calls, UNKNOWN)
            chance = max(chance, tools.chance(max(0.0, now - conversation.last)))
            if conversation.session_last:
                chance = max(chance, math.exp(-(now - conversation.session_last) / ALIVE) * USUALLY)
        return chance

    def held_until(self, conversation: ConversationRecord) -> float:
        """Until when the client returns with the results of its tools, mostly; 0 without a call."""
        if not conversation.calls:
            return 0.0
        return conversation.last + self.tools.get(conversation.calls, UNKNOWN).within()

    def expected(self, conversation: ConversationRecord, now: float) -> float:
        """The mean seconds until the client returns from its tool call."""
        tools = self.tools.get(conversation.calls, UNKNOWN)
        return tools.expected(max(0.0, now - conversation.last))


def _place(conversation: ConversationRecord) -> int:
    return BESIDE if conversation.beside else min(conversation.turns, DEEPEST)
