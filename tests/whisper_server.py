"""whisper.cpp's server as version 1.9.3 answers, with a made-up text. Its attributes show what it
got."""

from __future__ import annotations

import json
import sys
import threading
from email.message import Message
from email.parser import BytesParser
from http.server import ThreadingHTTPServer
from typing import Any

from tests.http_fakes import FakeHandler, FakeServer

PAGE = b"<html><head><title>Whisper.cpp Server</title></head></html>"
SAID = ((" Seven green", 0.0, 1.5), (" bottles, déjà vu.", 1.5, 3.25))
PIECES = ((" Se", 0.0, 0.5), ("ven", 0.5, 0.8), (" green", 0.8, 1.5))
LANGUAGES = ("auto", "en", "de", "zh")  # some of those that the real one knows


class WhisperFake(FakeServer):
    """With `holds`, a request is not answered before `go` is set."""

    def __init__(self, holds: bool = False) -> None:
        self.forms: list[dict[str, str]] = []
        self.files: list[bytes] = []
        self.go, self.left = threading.Event(), threading.Event()
        if not holds:
            self.go.set()
        super().__init__(_Handler, fake=self)


class _Handler(FakeHandler):
    fake: WhisperFake

    def do_GET(self) -> None:
        if self.path == "/":
            self.send(PAGE, kind="text/html")
        elif self.path == "/health":
            self.send({"status": "ok"})
        else:
            self.send(f"File Not Found ({self.path})".encode(), 404, "text/plain")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/inference":
            return self.send(b"File Not Found", 404, "text/plain")
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = BytesParser().parsebytes(head + body).get_payload()
        form: dict[str, str] = {}
        for part in parts:
            assert isinstance(part, Message)
            name = str(part.get_param("name", header="content-disposition"))
            data = part.get_payload(decode=True)
            assert isinstance(data, bytes)
            if part.get_filename():
                self.fake.files.append(data)
            else:
                form[name] = data.decode()
        self.fake.forms.append(form)
        if not self._waited():
            return None
        if self.fake.files[-1].startswith(b"broken"):
            return self.send(b"Invalid request", 400, "text/plain")
        if self.fake.files[-1].startswith(b"inconvertible"):  # with --convert
            return self.send({"error": "FFmpeg conversion failed."}, 500)
        if form["language"] not in LANGUAGES:
            error = b"500 Internal Server Error\nbasic_string: construction from null is not valid"
            return self.send(error, 500, "text/plain")
        if self.fake.files[-1].startswith(b"odd"):
            return self.send([1])
        return self.send(self._answer(form))

    def _waited(self) -> bool:
        """Wait for `go`. False if the client leaves before, as the real one aborts then."""
        self.connection.settimeout(0.05)
        while not self.fake.go.is_set():
            try:
                if not self.connection.recv(1):
                    self.fake.left.set()
                    self.close_connection = True
                    return False
            except TimeoutError:
                continue
        self.connection.settimeout(None)
        return True

    def _answer(self, form: dict[str, str]) -> bytes:
        said: tuple[tuple[str, float, float], ...] = SAID
        if form["token_timestamps"] == "true" and "max_len" not in form:  # it wraps long ones then
            said = ((" Seven gr", 0.0, 1.0), ("een", 1.0, 1.5), SAID[1])
        segments: list[dict[str, Any]] = [
            {"id": at, "text": text, "start": start, "end": end, "tokens": [1], "temperature": 0.0}
            | {"avg_logprob": None if at else -0.5, "no_speech_prob": 0.01}
            for at, (text, start, end) in enumerate(said)
        ]
        if form["token_timestamps"] == "true":
            segments[0]["words"] = [
                {"word": word, "start": start, "end": end, "t_dtw": -1, "probability": 0.9}
                for word, start, end in PIECES
            ]
        answer = {
            "task": "translate" if form.get("translate") == "true" else "transcribe",
            "language": "english",
            "duration": 3.25,
            "text": "".join(f"{text}\n" for text, _, _ in said),
            "segments": segments,
        }
        return json.dumps(answer, ensure_ascii=False).encode()


if __name__ == "__main__":
    fake = WhisperFake()
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), fake._handler) as server:
        server.serve_forever()
