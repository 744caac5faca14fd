"""Whether a client lists its tools in another order than in a conversation's previous turn.

Tools stand at the beginning of a prompt, so such a turn finds hardly anything of it cached. The
scheduler cannot tell: it knows a conversation by the beginning of its prompts. So the orders are
kept here, each under a digest of the tools' names and of some of the messages. A turn has the
messages of the one before it, then the model's answer, then more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from msgspec import structs

from ..core.request import CompletionRequest, Message
from ..runtime.locks import native_lock

REMEMBERED = 1024  # turns, of some 250 bytes each
COMPARED = 512  # characters of a message
DIGEST = 12  # bytes
WARNING = (
    "tools: not in the order of the previous turn, so most of the prompt may be evaluated again:"
    " send them in the same order in each turn"
)


class ToolOrders:
    """The orders of the last REMEMBERED turns with tools of this process. Thread-safe."""

    def __init__(self) -> None:
        self._orders: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = native_lock()

    def checked(self, request: CompletionRequest, model: str, group: str) -> CompletionRequest:
        """The request, which has several tools, with a warning if the previous turn had the same
        tools in another order. Remembers this turn. `group` is the group of keys whose conversation
        it is."""
        names = [tool.name for tool in request.tools]
        messages = request.messages
        place = _digest(group, model, *sorted(names))
        order = _digest(*names)
        before = _turn(place, messages[: _last_answer(messages)])
        turn = _turn(place, messages)
        with self._lock:
            known = self._orders.get(before)
            self._orders[turn] = order
            self._orders.move_to_end(turn)
            if len(self._orders) > REMEMBERED:
                self._orders.popitem(last=False)
        if known is None or known == order:
            return request
        return structs.replace(request, warnings=(*request.warnings, WARNING))


def _last_answer(messages: Sequence[Message]) -> int:
    """Where the model's last answer begins; 0 without one."""
    end = len(messages)
    while end and messages[end - 1].role != "assistant":
        end -= 1
    while end and messages[end - 1].role == "assistant":
        end -= 1
    return end


def _turn(place: bytes, messages: Sequence[Message]) -> bytes:
    """The key of a turn with these messages: how many there are, the first of a user, the last."""
    first = next((m.content[:COMPARED] for m in messages if m.role == "user"), "")
    last = messages[-1].content[-COMPARED:] if messages else ""
    return _digest(place.hex(), str(len(messages)), first, last)


def _digest(*texts: str) -> bytes:
    text = "\0".join(texts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST).digest()
