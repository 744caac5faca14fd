"""A real model server whose model writes what a script says: its grammar allows nothing else.

For clients that need a model which answers sensibly, on the servers that the tests have. Requests
pass unchanged but for the grammar of completions, so prompts, slots, streams and counts are the
server's own.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar
from urllib.parse import urlsplit

from tests.http_fakes import FakeHandler, FakeServer
from tests.scripted_server import remainder

PATIENCE = 120.0  # seconds that the server may be silent


class ForcedServer(FakeServer):
    """A port of 127.0.0.1 in front of the server at ``url``. ``script`` maps a ChatML prompt, up to
    the beginning of the answer, to the whole answer; with ``rest``, any whole prompt to the rest of
    its answer."""

    def __init__(self, url: str, script: Callable[[str], str], *, rest: bool = False) -> None:
        text = script if rest else partial(remainder, script)
        super().__init__(_Handler, script=staticmethod(text), netloc=urlsplit(url).netloc)


class _Handler(FakeHandler):
    protocol_version = "HTTP/1.0"  # the connection ends with the answer
    script: ClassVar[Callable[[str], str]]
    netloc: ClassVar[str]

    def do_GET(self) -> None:
        self._forward(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/completion":
            body = self._forced(json.loads(body))
        self._forward(body)

    def _forced(self, body: dict[str, Any]) -> bytes:
        prompt = body["prompt"]
        if isinstance(prompt, dict):  # with an image
            prompt = prompt["prompt_string"]
        if isinstance(prompt, str) and prompt:
            text = type(self).script(prompt)
            body.pop("json_schema", None)
            body.pop("grammar_lazy", None)
            body.pop("grammar_triggers", None)
            body["grammar"] = f"root ::= {json.dumps(text)}"
        return json.dumps(body).encode()

    def _forward(self, body: bytes | None) -> None:
        """The server's connection ends with the client's."""
        connection = http.client.HTTPConnection(self.netloc, timeout=PATIENCE)
        try:
            headers = {"Content-Type": "application/json", "Connection": "close"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "keep-alive"):
                    self.send_header(name, value)
            self.end_headers()
            while piece := answer.read1(65536):
                self.wfile.write(piece)
                self.wfile.flush()
        except OSError:
            pass  # the client has left
        finally:
            connection.close()
