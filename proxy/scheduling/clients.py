"""Recently active clients, so that the last free slot goes to a client with nothing running.

A client here is an API key, split into its small and its large requests: small or rare requests
always find a slot. A slot is held back only while there is such a client: seen in the last
`LATELY` seconds and with nothing under way. Side jobs do not count: they take what is spare.
"""

from __future__ import annotations

from collections import OrderedDict

from .state import ClientClass

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
