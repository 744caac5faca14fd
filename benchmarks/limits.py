"""Checks that the limits of keys are exact when two gateways share one Redis.

    python -m benchmarks.limits [--part requests|tokens]

Clients send chats to both gateways, as fast as they are answered, until many were refused. The
accepted ones must lie between two bounds, without tolerance: the limit, and what GCRA gives back
between the first and the last request. They differ by the time that requests were on their way.

requests  a key of 10 000 requests a minute
tokens    a key of 100 000 tokens a minute, of prompts and answers

Prints a line of JSON for each, and fails if it is out of bounds. Needs redis-server or
valkey-server. The result does not depend on the speed of the machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from proxy.accounts.limiting.limiter import TICKS

from .several import scene
from .stub import PROMPT_TOKENS

LIMITS = {"requests": 10_000, "tokens": 100_000}  # a minute
FIELDS = {"requests": "rpm_limit", "tokens": "tpm_limit"}
MINUTE = 60.0
ANSWER = 4  # tokens
# Its prompt has as many tokens as the stub says of every prompt.
CONTENT = "How long is the way from here to there, and has a man walked it before me, # times?"
AT_ONCE = 64
REFUSED = 200
SECONDS = 400.0  # after which a machine is too slow to reach the limit


class Reply(NamedTuple):
    """An answer: when it was asked for and complete, by the system's clock, which is that of Redis,
    and the requests or tokens that were used, 0 if it was refused."""

    sent: float
    complete: float
    used: int


def bounds(replies: Sequence[Reply], limit: int, need: int = 1) -> tuple[int, int]:
    """The least and the most that a limit a minute accepts of these requests, if at the last
    refusal no other was under way, or all have the same `need`, as requests do."""
    rate, tick = limit / MINUTE, MINUTE / TICKS
    accepted = sorted((reply for reply in replies if reply.used), key=lambda reply: reply.complete)
    first = min(reply.sent for reply in replies)
    most = limit + rate * (accepted[-1].complete - first + tick)
    refusals = [reply.sent for reply in replies if not reply.used]
    if not refusals:
        return 0, math.floor(most)
    # Nothing is given back while nothing is used. `full` is the last time when that may be so.
    full, used = first, 0
    for reply in accepted:
        if used <= rate * (reply.complete - first + tick):
            full = reply.complete
        used += reply.used
    least = limit - need + rate * max(0.0, max(refusals) - full - tick)
    return math.floor(least) + 1, math.floor(most)


class Flood:
    """Clients of a key that send chats to these gateways; `counts`: requests or tokens."""

    def __init__(self, urls: Sequence[str], key: str, counts: str) -> None:
        self._urls = urls
        self._key = key
        self._counts = counts
        self._refused = 0
        self._failed: list[str] = []
        self._until = 0.0
        self.replies: list[tuple[int, Reply]] = []  # with the number of the gateway

    def run(self, at_once: int, refused: int) -> None:
        """Send requests until so many more were refused. Raises RuntimeError for other answers."""
        end = self._refused + refused
        self._until = time.monotonic() + SECONDS
        clients = [
            threading.Thread(target=self._client, args=(number, end)) for number in range(at_once)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        if self._failed:
            raise RuntimeError(self._failed[0])

    def _client(self, number: int, end: int) -> None:
        gateway = number % len(self._urls)
        parts = urlsplit(self._urls[gateway])
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        count = 0
        try:
            while self._refused < end and not self._failed:
                if time.monotonic() > self._until:
                    raise ValueError("the limit is not reached: this machine is too slow")
                count += 1
                content = CONTENT.replace("#", str(number + AT_ONCE * count))
                body = {
                    "messages": [{"role": "user", "content": content}],
                    "max_tokens": ANSWER,
                    "model": "stub",
                }
                sent = time.time()
                connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
                answer = connection.getresponse()
                text = answer.read()
                used = self._used(answer.status, text)
                self.replies.append((gateway, Reply(sent, time.time(), used)))
                self._refused += not used
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._failed.append(f"a request failed: {error!r}")
        finally:
            connection.close()

    def _used(self, status: int, text: bytes) -> int:
        """Raises ValueError for an answer that is neither the model's nor a refusal."""
        if status == 429:
            return 0
        if status != 200:
            raise ValueError(f"{status} {text[:300]!r}")
        return 1 if self._counts == "requests" else int(json.loads(text)["usage"]["total_tokens"])


def measure(part: str) -> dict[str, object]:
    """The result of a part, as a line of the output."""
    limit, key = LIMITS[part], "sk-limited-0123456789"
    with scene("") as here:
        redis = here.redis()
        file = here.folder / "keys"
        file.write_text(f"limited {key} {FIELDS[part]}={limit}\n", encoding="utf-8")
        stubs = here.stubs(1, AT_ONCE, 0)
        gateways = [
            here.gateway(stubs, "--state", redis, "--api-key-file", str(file)) for _ in "ab"
        ]
        flood = Flood([gateway.url for gateway in gateways], key, part)
        flood.run(AT_ONCE, REFUSED)
        if part == "tokens":
            # The reservations of the last requests are back. One at a time takes the rest.
            time.sleep(1.0)
            flood.run(1, 1)
    replies = [reply for _, reply in flood.replies]
    accepted = [reply for reply in replies if reply.used]
    least, most = bounds(replies, limit, 1 if part == "requests" else PROMPT_TOKENS + ANSWER)
    return {
        "part": part,
        "limit_a_minute": limit,
        "sent": len(replies),
        "refused": len(replies) - len(accepted),
        "accepted": sum(reply.used for reply in accepted),
        "least": least,
        "most": most,
        "seconds": round(max(reply.complete for reply in replies) - replies[0].sent, 1),
        "accepted_by_each": [
            sum(reply.used for gateway, reply in flood.replies if gateway == number)
            for number in range(2)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Limits of keys with two gateways on one Redis.")
    parser.add_argument("--part", choices=LIMITS, help="only this")
    args = parser.parse_args()
    for part in LIMITS:
        if args.part in (None, part):
            row = measure(part)
            print(json.dumps(row), flush=True)
            if not row["least"] <= row["accepted"] <= row["most"]:  # type: ignore[operator]
                raise SystemExit(f"the limit of {part} is not exact")


if __name__ == "__main__":
    main()
