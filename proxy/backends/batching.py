"""Finds out whether an old server runs with -cb (continuous batching), which it does not report.

Without it, a request that arrives while another one runs waits until that one is done. So one
request generates tokens, and an empty prompt is sent meanwhile: it evaluates nothing and leaves its
slot's content. With -cb it is answered between two tokens. The first request is cut off once that
is known, or once many tokens have come without an answer. A busy server is left alone: an empty
prompt before tells, since an idle one answers it at once.
"""

from __future__ import annotations

import threading
import time

from ..errors import GatewayError
from .http import ConnectionPool
from .probe import PROMPT

TOKENS = 1024
ENOUGH = 10  # tokens without an answer …
LONG = 0.5  # … in so many seconds
IDLE = 1.0  # seconds in which an idle server answers
EMPTY = {"prompt": "", "n_predict": 1, "cache_prompt": True}


def answers_meanwhile(pool: ConnectionPool, patience: float) -> bool | None:
    """None if it cannot be told: the server is busy, or too slow for `patience` seconds, or the
    generation ended too soon."""
    body = {"prompt": PROMPT, "n_predict": TOKENS, "stream": True, "ignore_eos": True}
    end = time.monotonic() + patience
    answered = threading.Event()
    asking = threading.Thread(target=_ask, args=(pool, patience, answered), daemon=True)
    idle = threading.Event()
    _ask(pool, min(IDLE, patience), idle)
    if not idle.is_set():
        return None
    try:
        exchange = pool.send("POST", "/completion", body, tick=0.02, patience=patience, short=True)
        try:
            tokens, sent = 0, 0.0
            while (now := time.monotonic()) < end:
                data = exchange.read()
                if data == b"":
                    return None
                if data and exchange.status != 200:
                    return None
                tokens += data.count(b"data:") if data else 0
                if tokens and not sent:
                    tokens, sent = 0, now
                    asking.start()
                elif sent and answered.is_set():
                    return True
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


def _ask(pool: ConnectionPool, patience: float, answered: threading.Event) -> None:
    try:
        if pool.ask("POST", "/completion", EMPTY, patience, short=True)[0] == 200:
            answered.set()
    except GatewayError:
        return
