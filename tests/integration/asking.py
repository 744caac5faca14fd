"""Requests to gateways and servers, each on a connection of its own: so on any worker."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from tests.clients import openai
from tests.fakes import wait_until
from tools.processes import Gateway

JSON = {"Content-Type": "application/json"}


def fetch(
    url: str, path: str, body: Any = None, headers: Mapping[str, str] = {}, seconds: float = 100.0
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of the answer to a POST, or to a GET if there is no body."""
    with opened(url, path, body, headers, seconds) as answer:
        reply_headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, reply_headers, json.loads(answer.read())


@contextlib.contextmanager
def opened(
    url: str, path: str, body: Any = None, headers: Mapping[str, str] = {}, seconds: float = 100.0
) -> Iterator[http.client.HTTPResponse]:
    """The answer, with its body unread; the connection is closed at the end."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=seconds)
    with contextlib.closing(connection):
        data = None if body is None else json.dumps(body)
        method = "GET" if body is None else "POST"
        connection.request(method, path, data, {**JSON, **headers})
        with contextlib.closing(connection.getresponse()) as answer:
            yield answer


def chat(url: str, *turns: str, **fields: Any) -> tuple[Any, dict[str, str]]:
    """JSON and headers of the answer to a conversation whose turns are by user and assistant."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)]
    body = {"messages": messages, "temperature": 0, **fields}
    status, headers, answer = fetch(url, "/v1/chat/completions", body)
    assert status == 200, answer
    return answer, headers


def lines(url: str, path: str, body: Any, headers: Mapping[str, str] = {}) -> Iterator[bytes]:
    """The lines of a stream that are not empty."""
    with opened(url, path, {**body, "stream": True}, headers) as answer:
        assert answer.status == 200, answer.read()
        for line in answer:
            if line.strip():
                yield line.strip()


def ended(url: str, name: str, headers: Mapping[str, str] = {}) -> dict[str, Any]:
    """The report of a request. It ends a moment after its client has read the answer."""
    request: dict[str, Any] = {}

    def has_ended() -> bool:
        request.update(fetch(url, f"/v1/requests/{name}", None, headers)[2])
        return request.get("state") == "ended"

    wait_until(has_ended)
    return request


def in_flight(url: str) -> int:
    """The requests that are with a backend of the gateway."""
    return sum(backend["in_flight"] for backend in fetch(url, "/v1/backends")[2]["data"])


def openai_client(of: Gateway | str, key: str = "x", **more: Any) -> openai.OpenAI:
    """OpenAI's client, of a gateway or of the address of one."""
    url = of if isinstance(of, str) else of.url
    more = {"max_retries": 0, "timeout": 100, **more}
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, **more)
