"""The caller of a request, as the scheduler sees it."""

from __future__ import annotations

from msgspec import Struct


class Caller(Struct, frozen=True):
    """`key` is the name of the API key; only requests of the same `group` share cached prompts.
    `share` is the weight of the key's class in the queue. `background` marks a side job, which
    avoids evicting others' prompts. `tell_place`: report the place in the queue in the stream."""

    key: str = ""
    group: str = ""
    share: float = 1.0
    background: bool = False
    tell_place: bool = False


ANYBODY = Caller()
