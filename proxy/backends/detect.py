"""Finds out which kind of server answers at an address, so that it gets the right driver.

server.cpp of any age shows itself at /props; everything else that lists models has OpenAI's API. So
people may give the address of any server, with or without /v1.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from ..errors import BackendDown
from .driver import Driver
from .http import ConnectionPool
from .http_server import MODEL, WhisperServer, is_whisper
from .llamacpp import LlamaCpp
from .openai.driver import OpenAIServer
from .openai.server_types import BY_OWNER, models
from .probe import ROUTER, document, not_listed

Kind = Literal["llamacpp", "openai", "whisper"]
DRIVERS: Mapping[Kind, type[Driver]] = {
    "llamacpp": LlamaCpp,
    "openai": OpenAIServer,
    "whisper": WhisperServer,
}
API = "/v1"
REFUSED = (401, 403)
LISTENS_TIMEOUT = 1.0  # seconds to find out whether a server listens
# Fields of /props by which a server.cpp shows itself; the second is of 2023.
OF_PROPS = frozenset(("default_generation_settings", "user_name"))
# A server with these owners of models has OpenAI's API first, even if it imitates /props.
_OTHERS = BY_OWNER.keys() - {"llamacpp"}


class Identity(NamedTuple):
    """The kind of a server, and where its OpenAI API begins. `models` are those that it lists;
    `shown` is whether anything said so."""

    kind: Kind
    api: str
    models: tuple[str, ...] = ()
    shown: bool = True


def suiting(
    root: str, pool: ConnectionPool, make: Callable[[Kind, str], Driver], current: Driver
) -> Driver:
    """The driver for what answers now at `root`, to which `pool` has the connections: the `current`
    one if it suits, else what `make` creates for a kind and a URL. Raises BackendDown."""
    kind, api, *_ = identify(pool)
    url = root + api if kind == "openai" else root
    if isinstance(current, DRIVERS[kind]) and getattr(current, "url", "") == url:
        return current
    return make(kind, url)


def listens(url: str) -> bool:
    address = urlsplit(url)
    try:
        with socket.create_connection((address.hostname, address.port or 80), LISTENS_TIMEOUT):
            return True
    except OSError:
        return False


def root_of(url: str) -> str:
    """A server's address without the path of OpenAI's API."""
    return url.rstrip("/").removesuffix(API)


def identify(pool: ConnectionPool) -> Identity:
    """What a server is. One that shows nothing counts as server.cpp, whose probe asks for a token.
    Raises BackendDown."""
    status, props = document(pool, "/props")
    if status == 503:
        raise BackendDown("the backend is loading its model")
    is_llama = props.get("role") == ROUTER or not OF_PROPS.isdisjoint(props)
    is_locked = status in REFUSED  # without the key, a llama-server shows its list of models only
    refused = 0
    for api in (API, ""):
        status, listed = document(pool, f"{api}/models") if status else (0, {})
        if status == 0:
            raise not_listed(0)
        try:
            found, is_list = models(listed), True
        except ValueError:
            found, is_list = (), False
        names, owners = tuple(model.name for model in found), {model.owner for model in found}
        if is_llama or (is_locked and "llamacpp" in owners):
            return Identity("llamacpp" if _OTHERS.isdisjoint(owners) else "openai", api, names)
        if is_list:
            return Identity("openai", api, names)
        refused = status if status in REFUSED else refused
    if refused:
        raise not_listed(refused)
    if is_whisper(pool):
        return Identity("whisper", "", (MODEL,))
    return Identity("llamacpp", API, shown=False)
