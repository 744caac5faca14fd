"""Fuzzes every way in for files of a running gateway.

    python -m tests.fuzz.uploads --seconds 600 [--seed 1] [--server llama-2026] [--no-keys]

Files that are valid, broken or made to harm (`tests/fuzz/samples.py`), under fitting and unfitting
names, in sound and broken forms, as documents, files of a chat, files of the API, and as images,
sounds and files within a chat's messages. Besides what `tests.fuzz.bodies` holds of each answer:
each document is read to an end, "failed" has a reason, what is downloaded is what was uploaded, and
at the end no reader runs and no temporary file is left.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.fuzz import samples
from tests.fuzz.samples import Sample
from tests.fuzz.subject import Answer, Case, Report, Subject, command, drive, no_helpers

MOST_UNREAD = 6  # documents; while more are waiting, files are sent to routes that read none
MOST = 4 << 20  # bytes of a document
PATIENCE = 60.0  # seconds until all is read
FLAGS = ("--max-document", str(MOST))
OVER = ("ready", "failed", "cancelled")
KINDS = ["image/png", "image/jpeg", "image/svg+xml", "text/plain", "", "x", "image/png;x=y"]


class Form(NamedTuple):
    kind: str
    body: bytes


def form(rng: random.Random, fields: dict[str, str], name: str, files: list[Sample]) -> Form:
    """A multipart form, often a broken one."""
    mark = rng.choice(["x", "----WebKitFormBoundary0123456789", "a" * 70])
    parts = [
        b'Content-Disposition: form-data; name="%b"\r\n\r\n%b' % (_bytes(key), _bytes(value))
        for key, value in fields.items()
    ]
    for one in files:
        shown = _bytes(one.name).replace(b'"', b"%22")
        if rng.random() < 0.1:
            shown = _bytes(one.name)
        kind = _bytes(rng.choice(KINDS))
        head = b'Content-Disposition: form-data; name="%b"; filename="%b"' % (_bytes(name), shown)
        if rng.random() < 0.05:
            head += b"; filename*=UTF-8''" + quote(one.name, errors="replace").encode()
        parts.append(head + b"\r\nContent-Type: " + kind + b"\r\n\r\n" + one.data)
    line = b"--" + mark.encode()
    body = b"".join(line + b"\r\n" + part + b"\r\n" for part in parts) + line + b"--\r\n"
    content_type = f"multipart/form-data; boundary={mark}"
    if rng.random() < 0.2:
        return _broken(rng, Form(content_type, body), line)
    return Form(content_type, body)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _broken(rng: random.Random, sound: Form, line: bytes) -> Form:
    kind, body = sound
    at = rng.randrange(len(body) + 1)
    part = line + b'\r\nContent-Disposition: form-data; name="p"\r\n\r\nx\r\n'
    changes: list[Callable[[], Form]] = [
        lambda: Form(kind, body[:at]),
        lambda: Form(kind, body[:at] + line + body[at:]),
        lambda: Form(kind + "y", body),
        lambda: Form("multipart/form-data", body),
        lambda: Form("multipart/form-data; boundary=", body),
        lambda: Form("multipart/form-data; boundary=" + "z" * 3000, body),
        lambda: Form('multipart/form-data; boundary="\xff"', body),
        lambda: Form("application/x-www-form-urlencoded", body),
        lambda: Form("application/json", body),
        lambda: Form(kind, part * 3000 + body),
        lambda: Form(kind, line + b"\r\nX: " + b"y" * 100_000 + b"\r\n\r\n" + body),
        lambda: Form(kind, line + b"\r\n" + b"X: y\r\n" * 5000 + b"\r\n" + body),
        lambda: Form(
            kind, body.replace(b"Content-Type", b"Content-Transfer-Encoding: base64\r\nX")
        ),
        lambda: Form(kind, body.replace(b"\r\n", b"\n")),
        lambda: Form(kind, body.replace(b"form-data", b"attachment")),
        lambda: Form(kind, body.replace(b'name="file', b'name="other')),
        lambda: Form(kind, b""),
        lambda: Form(kind, b"preamble " * 20_000 + b"\r\n" + body),
        lambda: Form(kind, body + b"epilogue" * 20_000),
        lambda: Form(kind, line * 50_000),
    ]
    return rng.choice(changes)()


class Uploader:
    """Cases by number, and the uploads so far."""

    def __init__(self, subject: Subject, seed: int, unread: int) -> None:
        self.subject = subject
        self.seed = seed
        self.ways: dict[str, int] = {}  # how often each succeeded
        self.states: dict[str, int] = {}  # of documents, at the end
        self._kept: list[tuple[str, bytes]] = []  # paths of downloads, and their expected contents
        self._lock = threading.Lock()
        self._base = subject.post("/pages/api/knowledge", {"name": "samples"})["id"]
        self._talk = subject.post("/pages/api/chat/conversations", {})["id"]
        self._store = subject.post("/v1/vector_stores", {"name": "store"})["id"]
        self._most_unread = unread
        self._unread = 0
        self._counted: set[str] = set()

    # -- cases

    def attempt(self, number: int) -> None:
        rng = random.Random(f"{self.seed}/{number}")
        if number % 10 == 9:
            self._look()
        way = rng.choice(QUIET if self._unread >= self._most_unread else [*QUIET, *READ, *READ])
        way = way if number else "document"
        case, sample = self._case(rng, number, way)
        answer = self.subject.attempt(case)
        if answer is not None and answer.whole and 200 <= answer.status < 300:
            with self._lock:
                self.ways[way] = self.ways.get(way, 0) + 1
            self._after(rng, way, sample, answer)

    def _case(self, rng: random.Random, number: int, way: str) -> tuple[Case, Sample]:
        # One file can be read, however few there is time for.
        sample = samples.made(rng) if number else Sample("first.txt", samples.TEXT.encode())
        headers = {**self.subject.key_headers(), **self.subject.page_headers()}
        path, kind, body = "", "application/octet-stream", sample.data
        if way in ("document", "chat file"):
            name = quote(sample.name, safe="", errors="surrogatepass")
            path = f"/pages/api/chat/conversations/{self._talk}/files?name={name}"
            if way == "document":
                path = f"/pages/api/knowledge/{self._base}/documents?name={name}"
                path += rng.choice(["", "&replace=1", "&replace=1", "&replace=x"])
        elif way == "file":
            path = "/v1/files"
            purpose = rng.choice(["assistants", "assistants", "user_data", "x", ""])
            fields = {"purpose": purpose}
            if rng.random() < 0.1:
                fields["expires_after[anchor]"] = rng.choice(["created_at", "x"])
                fields["expires_after[seconds]"] = rng.choice(["3600", "-1", "1e9", "9" * 400, "x"])
            kind, body = form(rng, fields, "file", [sample])
        elif way in ("chatchat", "temporary"):
            path = f"/knowledge_base/upload_{'' if way == 'chatchat' else 'temp_'}docs"
            files = [sample, *([samples.made(rng)] if rng.random() < 0.2 else [])]
            size = rng.choice(["250", "1", "0", "-1", "x", "9" * 30, "100000"])
            fields = {
                "knowledge_base_name": rng.choice(["samples", "samples", "none", "../x", ""]),
                "override": rng.choice(["true", "false", "x"]),
                "to_vector_store": rng.choice(["true", "false"]),
                "chunk_size": size,
                "chunk_overlap": rng.choice(["50", "0", size]),
                "docs": rng.choice(
                    ["{}", "", "[]", "x", '{"a.txt": [{"page_content": "one"}]}', '{"a.txt": 3}']
                ),
            }
            kind, body = form(rng, fields, "files", files)
        elif way == "attach":
            files_there = self.subject.get("/v1/files?limit=20")["data"]
            chosen = rng.choice(files_there)["id"] if files_there else "file-x"
            path, kind = f"/v1/vector_stores/{self._store}/files", "application/json"
            body = json.dumps({"file_id": chosen, "attributes": {"a": 1}}).encode()
        else:
            path, value = MESSAGES[way](sample, rng.choice(KINDS))
            kind, body = "application/json", json.dumps(value).encode()
            if way == "page image":
                path = path.format(self._talk)
        headers["Content-Type"] = kind
        hang_up = rng.choice([0.001, 0.02]) if rng.random() < 0.03 else None
        return Case(
            number, f"{ENDPOINTS.get(way, 'openai')}.{way}", "POST", path, headers, body, hang_up
        ), sample

    def _after(self, rng: random.Random, way: str, sample: Sample, answer: Answer) -> None:
        """Remembers possible downloads, and sometimes deletes an object."""
        self._unread += way in READ
        said = json.loads(answer.body)
        path = ""
        if way == "document":
            path = f"/pages/api/knowledge/{self._base}/documents/{said['id']}/original"
        elif way == "file" and said["bytes"] == len(sample.data):  # a broken form may cut it
            path = f"/v1/files/{said['id']}/content"
        if path and rng.random() < 0.3:
            got = self.subject.send(Case(0, way, "GET", path, self.subject.key_headers(), b""))
            if got.status == 200 and got.whole and got.body != sample.data:
                self.subject.find(
                    f"{way}: another file is downloaded", None, f"{sample.name!r} {path}"
                )
        if way == "file" and rng.random() < 0.5:
            headers = self.subject.key_headers()
            self.subject.send(Case(0, way, "DELETE", f"/v1/files/{said['id']}", headers, b""))

    # -- results

    def documents(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        get = self.subject.get
        found += get(f"/pages/api/knowledge/{self._base}/documents")
        found += get(f"/pages/api/chat/conversations/{self._talk}/files")
        found += get(f"/pages/api/knowledge/{self._store}/documents")
        return found

    def _look(self) -> None:
        """Counts unread documents, checks finished ones, and deletes when there are many."""
        found = self.documents()
        self._unread = sum(one["status"] not in OVER for one in found)
        over = [one for one in found if one["status"] in OVER]
        self._judge(over)
        if len(over) > 100:
            headers = {**self.subject.key_headers(), **self.subject.page_headers()}
            for one in over[:80]:
                path = f"/pages/api/knowledge/{one['base_id']}/documents/{one['id']}"
                self.subject.send(Case(0, "", "DELETE", path, headers, b""))

    def _judge(self, over: list[dict[str, Any]]) -> None:
        for one in over:
            if one["status"] == "failed" and not one["error"]:
                self.subject.find("a document failed without a reason", None, str(one))
            if any(
                word in one["error"]
                for word in ("Traceback", "could not be read", "/usr/", "Error(")
            ):
                self.subject.find(f"a document failed oddly: {one['error']}", None, str(one))
            key = f"{one['status']}: {one['error']}" if one["error"] else one["status"]
            with self._lock:
                if one["id"] not in self._counted:
                    self._counted.add(one["id"])
                    self.states[key] = self.states.get(key, 0) + 1

    def finish(self) -> None:
        """Checks that all documents are finished and that no reader or temporary file is left."""
        end = time.monotonic() + PATIENCE
        while unread := [one for one in self.documents() if one["status"] not in OVER]:
            if time.monotonic() > end:
                self.subject.find("documents are not read to an end", None, str(unread[:3]))
                break
            time.sleep(0.5)
        self._judge([one for one in self.documents() if one["status"] in OVER])
        no_helpers(self.subject, "extract")


def _messages(content: list[dict[str, Any]]) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "text", "text": "What is it?"}
    return {"messages": [{"role": "user", "content": [text, *content]}], "max_tokens": 2}


def _image(sample: Sample, kind: str) -> tuple[str, Any]:
    part = {"type": "image_url", "image_url": {"url": samples.data_url(sample, kind)}}
    return "/v1/chat/completions", _messages([part])


def _sound(sample: Sample, kind: str) -> tuple[str, Any]:
    data = samples.data_url(sample, kind).partition(",")[2]
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return "/v1/chat/completions", _messages([part])


def _part(sample: Sample, kind: str) -> tuple[str, Any]:
    file = {"filename": sample.name, "file_data": samples.data_url(sample, kind)}
    return "/v1/chat/completions", _messages([{"type": "file", "file": file}])


def _ollama(sample: Sample, kind: str) -> tuple[str, Any]:
    data = samples.data_url(sample, kind).partition(",")[2]
    message = {"role": "user", "content": "x", "images": [data]}
    return "/api/chat", {"model": "m", "messages": [message], "options": {"num_predict": 2}}


def _anthropic(sample: Sample, kind: str) -> tuple[str, Any]:
    data = samples.data_url(sample, kind).partition(",")[2]
    source = {"type": "base64", "media_type": kind, "data": data}
    part = {"type": "document" if kind == "text/plain" else "image", "source": source}
    return "/v1/messages", _messages([part])


def _responses(sample: Sample, kind: str) -> tuple[str, Any]:
    url = samples.data_url(sample, kind)
    parts = [
        {"type": "input_image", "image_url": url},
        {"type": "input_file", "filename": sample.name, "file_data": url},
    ]
    return "/v1/responses", {"input": [{"role": "user", "content": parts}], "max_output_tokens": 2}


def _page(sample: Sample, kind: str) -> tuple[str, Any]:
    images = [{"name": sample.name, "url": samples.data_url(sample, kind)}]
    body = {"text": "What is it?", "images": images, "options": {"max_tokens": 2}}
    return "/pages/api/chat/conversations/{}/ask", body


MESSAGES = {
    "image": _image,
    "sound": _sound,
    "file part": _part,
    "ollama image": _ollama,
    "anthropic image": _anthropic,
    "responses parts": _responses,
    "page image": _page,
}
QUIET = ["file", "file", "file", *MESSAGES]  # no document is read for these
READ = ["document", "chat file", "chatchat", "temporary", "attach"]
ENDPOINTS = {
    "ollama image": "ollama",
    "anthropic image": "anthropic",
    "chatchat": "chatchat",
    "temporary": "chatchat",
}


def fuzz(
    subject: Subject,
    seed: int,
    *,
    seconds: float = 0.0,
    count: int = 0,
    unread: int = MOST_UNREAD,
) -> tuple[Report, Uploader]:
    """Tries cases for a time or up to a number, with a bound on unread documents."""
    samples.valid(), samples.hostile()  # they take seconds to make
    uploader = Uploader(subject, seed, unread)
    report = drive(subject, uploader.attempt, seconds=seconds, count=count)
    uploader.finish()
    subject.look()
    return report, uploader


if __name__ == "__main__":
    shown = "taken: {0.ways}\ndocuments: {0.states}"
    sys.exit(command("tests.fuzz.uploads", __doc__, fuzz, shown, FLAGS))
