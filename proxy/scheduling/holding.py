"""How long a request leaves a free slot to the conversation that is about to return to it.

Two prompts are about to return: one in a tool call, until most calls of that client and tool have
returned, and the main one of the request's own session, which waits for the request's answer. To
evict one costs its evaluation. So a request waits for another client until its wait has cost as
much, counted for all who wait there: at most twice the cost of the better choice, whatever comes.
In a session it waits longer, since its agent needs the answers of all its conversations: one after
the other, they are ready sooner than in turns that evict each other. Nothing is reserved: after
that, the slot goes to the cheapest bid like any other.
"""

from __future__ import annotations

from .line import backend_key
from .pool import Pool
from .state import CachedPrompt, SlotRequest

OWN = 120.0  # seconds that a request waits for conversations of its own session, at most
OTHERS = 15.0  # seconds that it waits for others, at most
TOGETHER = 8.0  # factor of a loss in a session: its agent waits for all of them


def seconds_held(
    held: CachedPrompt, session: bytes, pool: Pool, want: SlotRequest, now: float, lost: float
) -> float:
    """Seconds for which a request rather waits than evicts this prompt, whose eviction costs `lost`
    seconds. `session` is the digest of the request's session."""
    conversation = held.conversation
    if not conversation.calls or conversation.background:
        return 0.0
    if conversation.session == session != b"":
        if not conversation.beside:
            return max(0.0, want.since + min(TOGETHER * lost, OWN) - now)
        pays, patience = TOGETHER * lost, OWN
    else:
        waiting = 1 + pool.line.parked(backend_key(held.backend.name))
        pays = patience = min(lost / waiting, OTHERS)
    if pool.returns.expected(conversation, now) > pays:
        return 0.0
    return max(0.0, min(pool.returns.held_until(conversation), want.since + patience) - now)
