"""Finds out whether an old server runs with -cb (continuous batching), which it does not report.

Without it, a request that arrives while another one runs waits until that one is done. So one
request generates tokens, and an empty prompt is sent meanwhile: it evaluates nothing and leaves its
slot's content. With -cb it is answered within a few tokens, without it after the last one, which a
small model writes soon. The first request is cut off once that is known. A busy server is left
alone: an empty prompt before tells, since an idle one answers it at once.

On a busy machine the empty prompt itself may be late. So its early answer is proof, but that it is
missing counts only if it is missing every time.
"""

from __future__ import annotations

import threading
import time

from ..errors import GatewayError
from .http import ConnectionPool
from .probe import PROMPT

TRIES = 3
TOKENS = 16384  # a small model writes 1 000 while a busy machine lets us read the first
ENOUGH = 10  # tokens without an answer …
LONG = 0.5  # … in so many seconds
FEW = TOKENS // 4  # tokens that even a fast model writes until the answer is noticed
IDLE = 3.0  # seconds in which an idle server answers
FREED = 0.02  # seconds; a slot is free about 5 ms after its answer
EMPTY = {"prompt": "", "n_predict": 1, "cache_prompt": True}


def answers_meanwhile(pool: ConnectionPool, patience: float) -> bool | None:
    """Whether the server has continuous batching. None if that stays unknown: it is busy, or too
    slow for `patience` seconds, or the generation ended too soon."""
    end = time.monotonic() + patience
    found: bool | None = None
    for _ in range(TRIES):
        found = _answered_early(pool, end)
        if found is not False:
            break
    return found


def _answered_early(pool: ConnectionPool, end: float) -> bool | None:
    patience = end - time.monotonic()
    if patience <= 0 or not _is_idle(pool, min(IDLE, patience)):
        return None
    body = {"prompt": PROMPT, "n_predict": TOKENS, "stream": True, "ignore_eos": True}
    answered = threading.Event()
    asking = threading.Thread(target=_ask, args=(pool, patience, answered), daemon=True)
    try:
        exchange = pool.send("POST", "/completion", body, tick=0.02, patience=patience, short=True)
        try:
            tokens, sent = 0, 0.0
            while (now := time.monotonic()) < end:
                data = exchange.read()
                if data == b"":
                    return False if tokens >= FEW else None
                if data and exchange.status != 200:
                    return None
                tokens += data.count(b"data:") if data else 0
                if tokens and not sent:
                    tokens, sent = 0, now
                    asking.start()
                elif sent and answered.is_set():
                    return tokens < FEW
                elif sent and tokens >= ENOUGH and now > sent + LONG:
                    return False
        finally:
            exchange.close()
    except GatewayError:
        pass
    finally:
        if asking.ident is not None:
            asking.join(max(IDLE, end - time.monotonic()))
    return None


def _is_idle(pool: ConnectionPool, patience: float) -> bool:
    end = time.monotonic() + patience
    while (left := end - time.monotonic()) > 0:
        if _answers(pool, left):
            return True
        time.sleep(FREED)
    return False


def _ask(pool: ConnectionPool, patience: float, answered: threading.Event) -> None:
    if _answers(pool, patience):
        answered.set()


def _answers(pool: ConnectionPool, patience: float) -> bool:
    try:
        return pool.ask("POST", "/completion", EMPTY, patience, short=True)[0] == 200
    except GatewayError:
        return False
