"""Measures the cost of the keys in the store to a request.

    python -m benchmarks.keys [KEYS]

Fills a SQLite database with 100 000 keys (or KEYS), of a thousand users and a hundred teams, and
sends requests for /v1/models/scripted to an application in this process. In turns, they carry a key
of the settings, keys of the store that the process knows, those with rights, and mistyped keys.
Then it sends chats, all with other prompts, with keys of the settings, of the store, and with
limits of requests, of tokens and of all levels, which are kept in the process. The result is the
CPU time of the answering thread for each request, the median of many short rounds, and the mean of
first uses, which ask the database.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
from flask import Flask
from sqlalchemy import insert

from proxy.accounts import key_cache
from proxy.accounts.limits import Limits, Window
from proxy.accounts.records import StoredKey, Team, User
from proxy.accounts.rights import Rights
from proxy.app import create_app
from proxy.backends.pools import Backend
from proxy.config import Settings
from proxy.config.keys import ApiKey, Secret
from proxy.store.api_keys import ApiKeys, teams, users
from proxy.store.database import Database
from proxy.store.tables import API_KEY
from tests.fakes import CAPS, ScriptedDriver, services_of, wait_until

KEYS, USERS, TEAMS = 100_000, 1000, 100
KNOWN = 20_000  # of them
ROUNDS, REQUESTS = 200, 25
RIGHTS = Rights(models=("scr*",), apis=("llm_api_routes",), networks=("127.0.0.0/8",))


def fill(database: Database, count: int, seed: int = 0) -> list[str]:
    """Add so many keys, of which every second has rights; returns their secrets."""
    draw = random.Random(seed)
    keys, people, groups = ApiKeys(database), users(database), teams(database)
    for number in range(USERS):
        people.add(User(id=f"user-{number}"), "benchmark")
    for number in range(TEAMS):
        groups.add(Team(id=f"team-{number}"), "benchmark")
    server_secret = keys.secret()
    secrets, rows = [], []
    for number in range(count):
        secret = key_cache.make_secret(draw.randbytes(key_cache.SECRET_BYTES))
        rights = RIGHTS if number % 2 else Rights()
        key = StoredKey(
            id=f"key_{number:024x}",
            digest=key_cache.key_digest(secret, server_secret),
            shown=key_cache.shown_secret(secret),
            alias=f"alias {number}",
            user_id=f"user-{number % USERS}",
            team_id=f"team-{number % TEAMS}",
            created=float(number),
            rights=rights,
        )
        row = {**msgspec.structs.asdict(key), "rights": msgspec.to_builtins(rights)}
        secrets.append(secret)
        rows.append(row)
    with database.begin() as db:
        for start in range(0, count, 5000):
            db.execute(insert(API_KEY), rows[start : start + 5000])
    return secrets


_numbers = itertools.count()
LIMITS = {
    "requests": (Window("requests", "minute", 10**9),),
    "tokens": (Window("requests", "minute", 10**9), Window("tokens", "minute", 10**9)),
}


def limited(app: Flask, many: bool, kind: str) -> str:
    """The secret of a new key with such limits; `many`: of its user and team as well."""
    accounts = services_of(app).accounts
    assert accounts is not None
    rights = Rights(limits=Limits(windows=LIMITS[kind]))
    key = StoredKey(id="", digest="", shown="", rights=rights)
    if many:
        accounts.users.make(User(id="limited", rights=rights), "benchmark")
        accounts.teams.make(Team(id="limited", rights=rights), "benchmark")
        key = msgspec.structs.replace(key, user_id="limited", team_id="limited")
    return accounts.keys.make(key, "benchmark")[0]


def question() -> bytes:
    """The body of a chat that no other has."""
    messages = [{"role": "user", "content": f"Hi {next(_numbers)}"}]
    return msgspec.json.encode({"model": "scripted", "max_tokens": 9, "messages": messages})


def ask(app: Flask, key: str, status: int, body: bytes = b"") -> None:
    """Send a request; with a body, a chat."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST" if body else "GET",
        "PATH_INFO": "/v1/chat/completions" if body else "/v1/models/scripted",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_AUTHORIZATION": f"Bearer {key}",
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body),
    }
    statuses: list[str] = []
    for _ in app.wsgi_app(environ, lambda line, headers, *_: statuses.append(line)):  # type: ignore[arg-type]
        pass
    assert statuses[0].startswith(str(status)), statuses


def cost(app: Flask, keys: Sequence[str], status: int = 200, *, chats: bool = False) -> float:
    """Microseconds of CPU for each request."""
    requests = [(key, question() if chats else b"") for key in keys]
    begun = time.thread_time()
    for key, body in requests:
        ask(app, key, status, body)
    return 1e6 * (time.thread_time() - begun) / len(keys)


def measured(
    app: Flask, kinds: dict[str, Callable[[], tuple[list[str], int]]], *, chats: bool = False
) -> None:
    """Print the cost of each kind of keys, and how much more that is than of the first. The kinds
    take turns in short rounds and in random order, so that the machine's moods hit all of them."""
    costs: dict[str, list[float]] = {name: [] for name in kinds}
    order = random.Random(2)
    for _ in range(ROUNDS):
        for name in order.sample(list(kinds), len(kinds)):
            keys, status = kinds[name]()
            costs[name].append(cost(app, keys, status, chats=chats))
    base = next(iter(costs.values()))
    for name, values in costs.items():
        added = statistics.median(value - first for value, first in zip(values, base, strict=True))
        print(f"{name:32} {statistics.median(values):7.1f} µs  {added:+6.1f} µs")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else KEYS
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'slotproxy.db'}")
        database.upgrade()
        secrets = fill(database, count)
        database.close()
        settings = Settings(
            file_keys=(ApiKey("ops", Secret("sk-ops")), ApiKey("user", Secret("sk-user"))),
            admins=("ops",),
            data=folder,
            wrong_keys=0,
            log_level="error",
        )
        # A server that queues, so no request waits for a slot that is kept for another turn.
        caps = msgspec.structs.replace(CAPS, slots=16, queues=True)
        backend = Backend("b", "test://b", ScriptedDriver(caps=caps))
        app = create_app(settings, [backend])
        wait_until(lambda: backend.up is True)
        draw = random.Random(1)
        ask(app, secrets[0], 200)  # opens the database
        secrets = secrets[:KNOWN]
        first = cost(app, secrets)
        plain, bound = secrets[::2], secrets[1::2]
        gc.freeze()  # as `server.serve` does
        gc.set_threshold(10_000, 20, 20)

        def wrong() -> str:
            return key_cache.make_secret(draw.randbytes(key_cache.SECRET_BYTES))

        print(f"{count} keys in the store, {len(secrets)} known")
        print(f"first use of a key               {first:7.1f} µs")
        measured(
            app,
            {
                "key of the settings": lambda: (["sk-user"] * REQUESTS, 200),
                "key of the store": lambda: (draw.choices(plain, k=REQUESTS), 200),
                "key of the store with rights": lambda: (draw.choices(bound, k=REQUESTS), 200),
                "wrong checksum": lambda: ([f"{wrong()}0" for _ in range(REQUESTS)], 401),
            },
        )

        def chat(key: str) -> Callable[[], tuple[list[str], int]]:
            ask(app, key, 200, question())
            return lambda: ([key] * REQUESTS, 200)

        measured(
            app,
            {
                "chat, key of the settings": chat("sk-user"),
                "chat, key of the store": chat(plain[0]),
                "chat, limit of requests": chat(limited(app, False, "requests")),
                "chat, limit of tokens": chat(limited(app, False, "tokens")),
                "chat, key, user and team limited": chat(limited(app, True, "tokens")),
            },
            chats=True,
        )
        sys.stdout.flush()
        os._exit(0)  # not waiting for the threads of the gateway


if __name__ == "__main__":
    main()
