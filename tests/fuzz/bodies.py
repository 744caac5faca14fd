"""Fuzzes every route of a running gateway with bodies, queries and headers.

    python -m tests.fuzz.bodies --seconds 600 [--seed 1] [--server llama-2026] [--no-keys]

The routes are read from the application, so a new one is fuzzed by itself. Each case takes a valid
body of its route (`tests/fuzz/seeds.py`) and changes structure, types, sizes or bytes. Whatever
comes, the gateway answers, in the error object of the route's dialect, and never with a 5xx that is
ours; it logs no traceback, holds no loop for 100 ms, keeps no slot and does not grow.

A case is made of the seed and its number alone, but for the ids of what the gateway keeps. Each
finding is printed with a curl command; the bodies are kept in --keep.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from tests.fuzz import seeds
from tests.fuzz.mutations import NUMBERS, TEXTS, Mutator, Raw, broken, encoded
from tests.fuzz.routes import Route, listed
from tests.fuzz.subject import KEY, Case, Report, Subject, command, drive, flags

WORLD = 100  # cases between two checks that the objects still exist
FORM = "application/x-www-form-urlencoded"
# Most requests ask for few tokens: the gateway is fuzzed, not the model.
BOUNDS: dict[str, tuple[str, Any]] = {
    "openai": ("max_tokens", 8),
    "glm": ("max_length", 8),
    "native": ("n_predict", 8),
    "responses": ("max_output_tokens", 8),
    "ollama": ("options", {"num_predict": 8}),
    "chatchat": ("max_tokens", 8),
}
SEVERAL = 4  # answers per request; with more, each is short, or they take minutes
KINDS = [
    "", "text/plain", FORM, "application/json; charset=utf-16", "application/xml",
    "APPLICATION/JSON", "multipart/form-data", "multipart/form-data; boundary=x",
    "multipart/form-data; boundary=" + "x" * 300, "application/vnd.api+json",
    "a/b;" + "c=d;" * 500, "json", "\xff", "multipart/mixed; boundary=x",
]  # fmt: skip
HEADERS: list[tuple[str, list[str]]] = [
    ("Accept", ["text/html", "text/event-stream", "*/*;q=0", "application/json;q=nan",
        "a" * 3000, ";;,,"]),
    ("X-Session-ID", ["s", "a" * 5000, "\xff", "../x"]),
    ("X-Slotproxy-Priority", ["high", "low", "x"]),
    ("X-Slotproxy-Job", ["side", "x"]),
    ("X-Slotproxy-Queue", ["on", "x"]),
    ("Cookie", ["slotproxy_session=x", "slotproxy_visit=" + "a" * 3000, "a=b;" * 300,
        "\xff=\xfe", "lang=xx", 'a="\\']),
    ("Origin", ["http://evil.example", "null", "http://127.0.0.1"]),
    ("Sec-Fetch-Site", ["cross-site", "same-origin", "x"]),
    ("Range", ["bytes=0-1", "bytes=-1", "bytes=9-1", "x"]),
    ("If-None-Match", ['"x"', "*", "W/", '"']),
    ("If-Modified-Since", ["x", "Thu, 01 Jan 1970 00:00:00 GMT",
        "Thu, 99 Jan 99999999 00:00:00 GMT"]),
    ("Content-Encoding", ["gzip", "br", "x"]),
    ("Accept-Language", ["zh", "xx;q=9", "a" * 3000]),
    ("Accept-Encoding", ["gzip", "gzip;q=x", "*"]),
    ("Authorization", ["Bearer x", "Basic eDp5", "Basic %%%", "Bearer", "Basic " + "a" * 3000,
        "\xff"]),
    ("X-API-Key", ["x", "\xff"]),
    ("anthropic-version", ["2023-06-01", "x"]),
    ("anthropic-beta", ["output-128k-2025-02-19", "x," * 300]),
    ("Last-Event-ID", ["0", "-1", "999999999999999999999", "1:2", "x", "\xb2"]),
    ("Host", ["evil.example", "127.0.0.1:0", "[::1]", "localhost", "a b", "\xff", ""]),
    ("X-Forwarded-For", ["1.2.3.4", "x"]),
    ("X-Forwarded-Proto", ["https", "x"]),
    ("X-CSRF-Token", ["x", "\xff"]),
    ("traceparent", ["x"]),
    ("X-Request-ID", ["x" * 3000, "\xff", "a b"]),
]  # fmt: skip


class World:
    """Objects in the gateway that routes refer to, by name."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.names: dict[str, str] = {}

    def make(self) -> None:
        """Creates missing objects."""
        post = self._subject.post
        form = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n--x\r\n'
        form += b'Content-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nThe zebra'
        form += b" runs.\r\n--x--\r\n"
        names: dict[str, str] = {}
        names["file"] = post("/v1/files", form, "multipart/form-data; boundary=x")["id"]
        store = post("/v1/vector_stores", {"name": "n", "file_ids": [names["file"]]})
        names["store"] = store["id"]
        batch = {"file_ids": [names["file"]]}
        names["batch"] = post(f"/v1/vector_stores/{store['id']}/file_batches", batch)["id"]
        bases = self._subject.get("/pages/api/knowledge")
        base = next((one for one in bases if one["name"] == "samples"), None)
        base = base or post("/pages/api/knowledge", {"name": "samples"})
        names["base"] = base["id"]
        at = f"/pages/api/knowledge/{base['id']}"
        document = post(f"{at}/documents?name=a.txt&replace=1", b"The zebra runs.", "text/plain")
        names["document"] = document["id"]
        end = time.monotonic() + 5
        chunks: Any = []
        while not chunks and time.monotonic() < end:  # others wait to be read, too
            chunks = self._subject.get(f"{at}/documents/{document['id']}/chunks")
            time.sleep(0.1)
        if isinstance(chunks, list) and chunks:
            names["chunk"] = chunks[0]["id"]
        names["job"] = post(f"{at}/rebuild", {})["id"]
        talk = post("/pages/api/chat/conversations", {})
        names["conversation"] = talk["id"]
        said = {"text": "Hi", "options": {"max_tokens": 2}}
        done = post(f"/pages/api/chat/conversations/{talk['id']}/ask", said)
        names["question"], names["answer"] = done["question"]["id"], done["answer"]["id"]
        names["message"] = names["answer"]
        asked = {"input": "Hi", "max_output_tokens": 2, "model": "m"}
        names["response"] = post("/v1/responses", asked)["id"]
        self.names = names

    def is_whole(self) -> bool:
        """Whether the object created last still exists."""
        answers = [
            self._subject.send(Case(0, "", "GET", path, self._subject.key_headers(), b""))
            for path in (
                f"/v1/files/{self.names['file']}",
                f"/v1/vector_stores/{self.names['store']}",
                f"/v1/responses/{self.names['response']}",
                f"/pages/api/knowledge/{self.names['base']}/documents",
                f"/pages/api/chat/conversations/{self.names['conversation']}",
            )
        ]
        return all(one.status == 200 for one in answers)

    def filled(self, value: Any) -> Any:
        """The value with ids in place of "$name"."""
        if isinstance(value, dict):
            return {self.filled(k): self.filled(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.filled(one) for one in value]
        if isinstance(value, str) and value.startswith("$"):
            return self.names.get(value[1:], value)
        return value

    def one_for(self, rng: random.Random, route: Route, name: str) -> str:
        """A value for a variable of a route."""
        how = rng.random() if "DELETE" not in route.methods else 0.4 + 0.6 * rng.random()
        if how < 0.6:
            if name in FIXED:
                return FIXED[name]
            mine = {"key": {"vector_stores": "store", "files": "file", "responses": "response"}}
            name = mine.get(name, {}).get(route.endpoint.partition(".")[0], name)
            if name in self.names:
                return self.names[name]
        if how < 0.8:
            return rng.choice(list(self.names.values()))
        odd = rng.choice([*TEXTS, *NUMBERS])
        text = odd.text if isinstance(odd, Raw) else str(odd)
        return (text or "%00")[:2000]


class Fuzzer(NamedTuple):
    subject: Subject
    routes: list[Route]
    world: World
    mutator: Mutator
    words: list[str]
    seed: int

    def case(self, number: int) -> Case:
        rng = random.Random(f"{self.seed}/{number}")
        route = self._route(rng, number)
        method = rng.choice(route.methods)
        if rng.random() < 0.01:
            method = rng.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
        headers: dict[str, str] = {}
        if rng.random() < 0.95:
            headers.update(self.subject.key_headers())
        if route.is_page and rng.random() < 0.95:
            headers.update(self.subject.page_headers())
        body = b""
        if method in ("POST", "PUT", "PATCH") or rng.random() < 0.05:
            headers["Content-Type"] = "application/json"
            body = self._body(rng, route)
            if form := FORMS.get(route.endpoint):
                token = self.subject.page_headers()["X-CSRF-Token"]
                pairs = {**form, "csrf_token": token, rng.choice(self.words): self._text(rng)}
                headers["Content-Type"] = FORM
                body = urlencode(pairs, errors="surrogatepass").encode()
            elif rng.random() < 0.06:
                headers["Content-Type"] = rng.choice(KINDS)
            elif rng.random() < 0.03:
                headers["Content-Type"], body = FORM, self._form(rng)
        if rng.random() < 0.15:
            name, values = rng.choice(HEADERS)
            headers[name] = rng.choice(values)
        hang_up = rng.choice([0.001, 0.01, 0.05, 0.2]) if rng.random() < 0.05 else None
        path = self._path(rng, route)
        return Case(number, route.endpoint, method, path, headers, body, hang_up)

    def _route(self, rng: random.Random, number: int) -> Route:
        """Each in turn; more often one that takes a body, those first that take bodies of many
        forms."""
        if number % 3:
            weights = [len(seeds.bodies(one.endpoint)) * _takes_body(one) for one in self.routes]
            return rng.choices(self.routes, weights)[0]
        route = self.routes[number // 3 % len(self.routes)]
        if route.endpoint in SWEEPING and rng.random() < 0.9:
            return rng.choice([one for one in self.routes if one.endpoint not in SWEEPING])
        return route

    def _body(self, rng: random.Random, route: Route) -> bytes:
        known = seeds.bodies(route.endpoint)
        if rng.random() < 0.03:
            known = seeds.bodies(rng.choice(self.routes).endpoint)
        value = self.world.filled(rng.choice(known))
        bound = BOUNDS.get(route.endpoint.partition(".")[0])
        if bound and isinstance(value, dict) and rng.random() < 0.95:
            value.setdefault(*bound)
        value = self.mutator.mutated(rng, value)
        if bound and isinstance(value, dict) and _answers(value) > SEVERAL:
            value[bound[0]] = bound[1]
        data = encoded(value).encode("utf-8", "surrogatepass")
        return broken(rng, data) if rng.random() < 0.05 else data

    def _form(self, rng: random.Random) -> bytes:
        pairs = [(rng.choice(self.words), self._text(rng)) for _ in range(rng.randrange(5))]
        return urlencode(pairs, errors="surrogatepass").encode()

    def _text(self, rng: random.Random) -> str:
        odd = rng.choice([*TEXTS, *NUMBERS, *self.words])
        return (odd.text if isinstance(odd, Raw) else str(odd))[:3000]

    def _path(self, rng: random.Random, route: Route) -> str:
        parts = []
        for part in route.rule.split("/"):
            if part.startswith("<"):
                kind, _, name = part.strip("<>").rpartition(":")
                value = self.world.one_for(rng, route, name)
                if kind == "int":
                    numbers = [0, 0, 0, 1, 1, 2, 9999, 2**63, 2**70, "-1", "x", "0" * 300]
                    value = str(rng.choice(numbers))
                part = quote(value, safe="", errors="surrogatepass")
            parts.append(part)
        path = "/".join(parts)
        if rng.random() < 0.01:
            path += rng.choice(["/", "//", "/..", "%2f", "%00", ";a", "/%ff", "?" + "a=b&" * 2000])
        elif route.methods == ("GET",) or route.endpoint in QUERIES or rng.random() < 0.1:
            names = [*QUERY, *(rng.choice(self.words) for _ in range(3))]
            pairs = [(rng.choice(names), self._asked(rng)) for _ in range(rng.randrange(4))]
            if rng.random() < 0.8:
                pairs = [*QUERIES.get(route.endpoint, {}).items(), *pairs[:1]]
            if pairs:
                path += "?" + urlencode(pairs, errors="surrogatepass")
        return path

    def _asked(self, rng: random.Random) -> str:
        return rng.choice(
            [self._text(rng)[:500], *self.world.names.values(), "1", "0", "asc", "a.txt", "samples"]
        )


SWEEPING = {"data.delete", "chat.clear"}  # rare, or no object would be left
FORMS = {"session.sign_in": {"key": KEY, "to": "/status"}, "session.sign_out": {}}
QUERIES = {
    "chat.add_file": {"name": "a.txt"},
    "panel_knowledge.add": {"name": "b.txt", "replace": "1"},
    "chatchat.list_files": {"knowledge_base_name": "samples"},
    "chatchat.download_doc": {"knowledge_base_name": "samples", "file_name": "a.txt"},
}
FIXED = {"what": "language", "chosen": "en", "name": "shell.css"}
QUERY = [
    "limit", "after", "before", "order", "search", "name", "replace", "as", "purpose", "filter",
    "to", "v", "knowledge_base_name", "file_name", "preview", "model", "stream", "starting_after",
    "include", "search",
]  # fmt: skip


def _answers(body: dict[str, Any]) -> int:
    """The number of answers that a body asks for."""
    prompts, choices = body.get("prompt"), body.get("n")
    many = len(prompts) if isinstance(prompts, list) else 1
    return many * choices if isinstance(choices, int) else many


def _takes_body(route: Route) -> bool:
    return bool({"POST", "PUT"} & set(route.methods))


def fuzz(
    subject: Subject, seed: int, *, seconds: float = 0.0, count: int = 0
) -> tuple[Report, list[str]]:
    """Tries cases for a time or up to a number. Also returns endpoints that never gave a 2xx."""
    folder = Path(tempfile.mkdtemp(prefix="routes-"))
    routes = listed(flags(subject.backend.url, folder, keys=False))
    known = [body for one in routes for body in seeds.bodies(one.endpoint)]
    words = seeds.words()
    world = World(subject)
    world.make()
    one = Fuzzer(subject, routes, world, Mutator(words, known), words, seed)
    done: set[str] = set()

    def attempt(number: int) -> None:
        if number % WORLD == WORLD - 1 and not world.is_whole():
            with contextlib.suppress(AssertionError, KeyError):  # deleted again meanwhile
                world.make()
        case = one.case(number)
        answer = subject.attempt(case)
        if answer is not None and 200 <= answer.status < 400:
            done.add(case.endpoint)

    report = drive(subject, attempt, seconds=seconds, count=count)
    return report, sorted({route.endpoint for route in routes} - done)


if __name__ == "__main__":
    sys.exit(command("tests.fuzz.bodies", __doc__, fuzz, "never a 2xx: {}"))
