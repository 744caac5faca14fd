"""Fuzzes the drivers with what a backend sends.

    python -m tests.fuzz.upstream --seconds 600 [--seed 1]

A sound stream of each form is changed at random: bytes flipped, cut out, doubled, put in. Whatever
comes, a driver gives events that end with one Finished, or raises GatewayError; nothing else.
"""

from __future__ import annotations

import argparse
import random
import time

from proxy.core.events import Finished
from tests.contract.test_faults import FORMS, Form, play, send
from tests.unit.backends.rawserver import LAST_CHUNK, chunk, head

PATIENCE = (2.0, 0.2)  # seconds of silence until it is a fault, and of a tick
TOKENS = (b"\r\n", b"\n\n", b"data: ", b"error: ", b"null", b"{", b"}", b"[", b'"', b"\\ud83d",
          b"\xff", b"\0", b"-1", b"1e999", b"true", b"0\r\n\r\n", b":", b"stop")  # fmt: skip


def sound(rng: random.Random, form: Form) -> bytes:
    """A stream as the real server sends it; half of them in one chunk, so that the frames and not
    the chunks are what is broken."""
    frames = [form.piece(rng.choice(("a", "é", "\n", ""))) for _ in range(rng.randrange(5))]
    frames.append(form.last())
    return b"".join(frames)


def mutated(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.choice((0, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 4, 32)))
        how = rng.randrange(4)
        if how == 0:
            data = data[:at] + bytes(rng.randrange(256) for _ in range(end - at)) + data[end:]
        elif how == 1:
            data = data[:at] + data[end:]
        elif how == 2:
            data = data[:end] + data[at:]
        else:
            data = data[:at] + rng.choice(TOKENS) + data[at:]
    return data


def attempt(rng: random.Random) -> str:
    """Tries one input and returns its end. Raises AssertionError if that is not allowed."""
    form, streamed = rng.choice(FORMS), rng.random() < 0.7
    body = sound(rng, form)
    if rng.random() < 0.7:
        data = head(None) + chunk(mutated(rng, body)) + LAST_CHUNK
    else:
        data = mutated(rng, head(None) + chunk(body) + LAST_CHUNK)
    try:
        said, error = play(form, send(data), streamed, PATIENCE)
    except Exception as escaped:
        raise AssertionError(f"{form.name}, streamed={streamed}: {data!r}") from escaped
    ends = [place for place, event in enumerate(said) if isinstance(event, Finished)]
    wanted = [] if error is not None else [len(said) - 1]
    assert ends == wanted, f"{form.name}, streamed={streamed}: {data!r} gave {said} and {error!r}"
    return type(error).__name__ if error is not None else "Finished"


def fuzz(seed: int, seconds: float = 0.0, count: int = 0) -> dict[str, int]:
    """Tries inputs for a time or up to a number. Returns how often each end occurred."""
    rng = random.Random(seed)
    until = time.monotonic() + seconds
    ends: dict[str, int] = {}
    done = 0
    while done < count or time.monotonic() < until:
        end = attempt(rng)
        ends[end] = ends.get(end, 0) + 1
        done += 1
    return ends


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    found = fuzz(given.seed, given.seconds)
    print(sum(found.values()), "inputs:", found)
