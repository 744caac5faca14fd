"""A small HTTP client for a running gateway, and what a terminal may show of its answers."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests

from ..config import Settings, SettingsError, keys, validators

CONNECT = 5.0  # seconds
PATIENCE = 15.0  # seconds for an answer that is no stream
MAX_ANSWER = 16 << 20  # bytes
MAX_ERROR = 1 << 20  # bytes
# All control characters but tab and newline, and marks that reorder the text around them.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class TerminalError(Exception):
    """The command cannot go on. The message is for the user."""


class Client:
    """Sends requests to the gateway at `url`, with an API key if there is one."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url, self._headers = url, {"Authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str) -> Any:
        """The JSON document at `path`. Raises TerminalError, and ValueError if it is none."""
        with self._response("GET", path, PATIENCE) as response:
            return json.loads(_read(response, MAX_ANSWER))

    def stream(self, path: str, body: Any) -> Generator[bytes, None, None]:
        """The lines of the answer to a POST, cancelled by closing it. Raises TerminalError."""
        with self._response("POST", path, None, body) as response:
            yield from response.iter_lines(chunk_size=None)

    @contextmanager
    def _response(
        self, method: str, path: str, patience: float | None, body: Any = None
    ) -> Iterator[requests.Response]:
        options: Any = {"json": body, "headers": self._headers, "timeout": (CONNECT, patience)}
        try:
            with requests.Session() as session:
                session.trust_env = False  # neither a proxy nor another key for this address
                with session.request(method, self.url + path, stream=True, **options) as response:
                    if response.status_code != 200:
                        raise TerminalError(self._refusal(response))
                    yield response
        except requests.RequestException as error:
            remedy = "start it with slotproxy, or name its address with --url"
            raise TerminalError(
                f"no gateway answers at {self.url} ({_reason(error)}): {remedy}"
            ) from error

    def _refusal(self, response: requests.Response) -> str:
        message = f"{self.url} answers with status {response.status_code}"
        with suppress(ValueError):
            message = error_message(json.loads(_read(response, MAX_ERROR))) or message
        hint = "; set SLOTPROXY_API_KEY, or name a file with the key: --key-file FILE"
        return message + hint * (response.status_code == 401)


def _read(response: requests.Response, most: int) -> bytes:
    """The body of a response, at most so many bytes of it."""
    data: bytes = response.raw.read(most, decode_content=True)
    return data


def _reason(error: BaseException) -> str:
    """What the operating system says, without the layers around it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "it timed out" if isinstance(error, requests.Timeout) else type(error).__name__


def error_message(document: Any) -> str:
    """What an error in the form of OpenAI's API says, "" for another document."""
    error = document.get("error") if isinstance(document, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else str(error or "")


def client_of(url: str, key_file: str, settings: Settings) -> Client:
    """A client of the gateway that listens as in these settings, unless there is a `url`. The key
    is the first one of the file, else that of the settings. Raises SettingsError."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    with validators.naming("--url"):
        address = validators.server(url or f"http://{host}:{settings.port}{settings.api_prefix}")
    key: str = settings.api_key[0] if settings.api_key else ""
    if key_file:
        try:
            text = Path(key_file).expanduser().read_text("utf-8")
        except OSError as error:
            raise SettingsError(f"--key-file: {key_file}: {error.strerror}") from None
        with validators.naming("--key-file"):
            key = keys.read(text, key_file)[0].secret
    return Client(address.removesuffix("/v1"), key)


def safe(text: str) -> str:
    """The text without characters that a terminal obeys; each is shown as U+FFFD."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def line(text: object) -> str:
    """The same for one line."""
    return " ".join(safe(str(text)).split())


def dim(text: str) -> str:
    """The text in grey, on a terminal that can."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain or not sys.stdout.isatty() else f"\x1b[2m{text}\x1b[22m"
