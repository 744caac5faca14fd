"""A small server of an HTTP API of its own, as whisper-server and stable-diffusion.cpp have:
`other_http_server.py PORT`. Its answers show what it got."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import sys
import time
from email.message import Message
from email.parser import BytesParser
from typing import Any

PIECES = 5


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    running = most = 0
    ended: tuple[str, ...] = ()

    def do_GET(self) -> None:
        if self.path == "/redirected":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/seen":
            self._send({"most": Handler.most, "ended": Handler.ended, "pid": os.getpid()})
        else:
            self._send({"path": self.path, "headers": _lower(self.headers)})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        Handler.running += 1
        Handler.most = max(Handler.most, Handler.running)
        try:
            self._answer(body)
        except OSError:
            Handler.ended = (*Handler.ended, self.path)
            self.close_connection = True
        finally:
            Handler.running -= 1

    def _answer(self, body: bytes) -> None:
        if self.path == "/v1/audio/transcriptions":
            form = _form(self.headers, body)
            self._send({"text": f"{len(form['file'])} bytes", "form": form})
        elif self.path == "/v1/audio/speech":
            fields = json.loads(body)
            data, pause = fields.get("input", "").encode(), fields.get("pause", 0.0)
            self._stream(data, pause, chunked=not fields.get("sized", False))
        elif self.path == "/v1/images/edits":
            self._send({"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)})
        elif self.path == "/v1/images/generations" and b"impossible" in body:
            self._send({"error": {"message": "no such size"}}, 422)
        elif self.path == "/slow":
            end = time.monotonic() + 30
            while Handler.most < 2 and time.monotonic() < end:  # a busy client sends them late
                time.sleep(0.01)
            time.sleep(0.3)
            self._send({})
        elif self.path == "/die":
            self.connection.close()
            raise ConnectionError
        else:
            self._send({"path": self.path, "body": body.decode(), "headers": _lower(self.headers)})

    def do_DELETE(self) -> None:
        self._send({"deleted": self.path})

    def _stream(self, data: bytes, pause: float, chunked: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "audio/wav")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        size = -(-len(data) // PIECES) or 1
        for at in range(0, len(data), size):
            part = data[at : at + size]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            time.sleep(pause)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _send(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Set-Cookie", "theirs=1")
        self.send_header("X-Powered-By", "sh")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _form(headers: Message, body: bytes) -> dict[str, Any]:
    """The fields as texts, in lists if they are repeated; files as texts of their bytes."""
    head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    form: dict[str, Any] = {}
    for part in BytesParser().parsebytes(head + body).get_payload():
        assert isinstance(part, Message)
        name = str(part.get_param("name", header="content-disposition"))
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)
        value = data.decode("latin-1")
        before = form.get(name, [])
        form[name] = [*([before] if isinstance(before, str) else before), value]
        if len(form[name]) == 1:
            form[name] = value
        if part.get_filename():
            form["filename"], form["type"] = part.get_filename(), part.get_content_type()
    return form


if __name__ == "__main__":
    address = ("127.0.0.1", int(sys.argv[1]))
    with http.server.ThreadingHTTPServer(address, Handler) as server:
        server.serve_forever()
