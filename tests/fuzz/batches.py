"""Fuzzes the batches of a running gateway with their input files.

    python -m tests.fuzz.batches --seconds 600 [--seed 1] [--server llama-2026] [--no-keys]

Files are sound, or have blank and huge lines, bytes that are no UTF-8 or no JSON, wrong types,
double ids, other ends of lines, BOM and NUL. Batches of them are created, and polled, listed,
cancelled and read at random moments; their files are deleted, and so is all that a key has. Besides
what `tests.fuzz.bodies` holds of each answer: each batch ends; one with a sound file, unless it was
deleted, has one result for each line; one with a broken file tells the errors.
"""

from __future__ import annotations

import json
import math
import random
import sys
import threading
import time
from collections import Counter
from typing import Any

from tests.fuzz import seeds
from tests.fuzz.mutations import Mutator, broken, encoded
from tests.fuzz.subject import OTHER, Answer, Case, Report, Subject, command, drive

PATIENCE = 60.0  # seconds until all batches have ended
MOST_OPEN = 12  # batches; with more, none is created
OPEN = ("validating", "in_progress", "finalizing", "cancelling")
BODIES: dict[str, Any] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    "/v1/completions": {"prompt": "a", "max_tokens": 2},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
    "/v1/embeddings": {"input": "a"},
}
ENDS = ["\n", "\r\n", "\n\n", "\n \t\r\n", "\n" * 3000]  # of a line, in a sound file
# What a sound line has in its text: ends of lines for others than us.
TEXTS = ["a", "\u2028", "\u2029\x85", "\\n", "你好\U0001f600", "a " * 30_000]
SPOILT = [
    b"\xef\xbb\xbf{}", b"\0", b"\xff\xfe{\0}\0", b'{"custom_id":"a","body":"\xff"}',
    b'{"custom_id":"\xed\xa0\x80"}', b"[" * 100_000, b'{"a":' * 100_000,
    b'"' + b"a" * 2_000_000 + b'"', b"[" + b"{}," * 300_000 + b"{}]", b"a" * 6_000_000,
    b"\n" * 120_000, b"{}\r{}", b"\x0b\x0c{}", b"null", b"1e999",
]  # fmt: skip


class Batch:
    """A batch whose creation began at the time `born`. `ids` are those of its lines, None if its
    file is not sound. `is_lost`: its input file was deleted."""

    def __init__(self, born: float, key: str, owner: str, file: str, ids: list[str] | None) -> None:
        self.born, self.key, self.owner, self.file, self.ids = born, key, owner, file, ids
        self.is_lost = False
        self.is_cancelled = False


class Fuzzer:
    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject = subject
        self.seed = seed
        self.ends: Counter[str] = Counter()  # of batches, by status
        self.lines = 0  # whose results are right
        self._batches: list[Batch] = []
        self._lock = threading.Lock()
        self._wiping = threading.Lock()
        self._wiped: dict[str, float] = {}  # when all data of a key was deleted
        self.mutator = Mutator(seeds.words(), [*BODIES.values(), *seeds.bodies("batches.create")])

    def attempt(self, number: int) -> None:
        rng = random.Random(f"{self.seed}/{number}")
        with self._lock:
            batch = rng.choice(self._batches) if self._batches else None
            is_full = len(self._batches) >= MOST_OPEN
        if batch is None or (rng.random() < 0.3 and not is_full):
            self._create(rng, number)
            return
        how = rng.random()
        at = f"/v1/batches/{batch.key}"
        if how < 0.1:
            batch.is_cancelled = True
            self._ask(number, "cancel", "POST", f"{at}/cancel", batch.owner)
        elif how < 0.13:
            batch.is_lost = True
            self._ask(number, "file", "DELETE", f"/v1/files/{batch.file}", batch.owner)
        elif how < 0.133:
            with self._wiping:
                self._wiped[batch.owner] = math.inf
                self._ask(number, "data", "DELETE", "/v1/data", batch.owner)
                self._wiped[batch.owner] = time.monotonic()
        elif how < 0.2:
            after = rng.choice([batch.key, "x", "%00", "a" * 3000])
            self._ask(number, "list", "GET", f"/v1/batches?limit=3&after={after}", batch.owner)
        else:
            self._poll(number, batch)

    def _create(self, rng: random.Random, number: int) -> None:
        """Uploads a file and creates a batch of it, sometimes with a broken body."""
        born = time.monotonic()
        owner = rng.choice([OTHER, ""]) if self.subject.keys else ""
        endpoint = rng.choice(list(BODIES))
        data, ids = self._file(rng, endpoint)
        head = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n'
        head += b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        kind = "multipart/form-data; boundary=x"
        form = head + data + b"\r\n--x--\r\n"
        answer = self._ask(number, "upload", "POST", "/v1/files", owner, form, kind)
        if answer is None or answer.status != 200:
            return
        file = json.loads(answer.body)["id"]
        asked: Any = {"input_file_id": file, "endpoint": endpoint, "completion_window": "24h"}
        if rng.random() < 0.2:
            asked, ids = self.mutator.mutated(rng, asked), None
        body = encoded(asked).encode("utf-8", "surrogatepass")
        answer = self._ask(number, "create", "POST", "/v1/batches", owner, body)
        if answer is not None and answer.status == 200:
            with self._lock:
                self._batches.append(Batch(born, json.loads(answer.body)["id"], owner, file, ids))

    def _file(self, rng: random.Random, endpoint: str) -> tuple[bytes, list[str] | None]:
        """An input file, and the ids of its lines if all are sound."""
        ids: list[str] | None = []
        data = b""
        end = rng.choice(ENDS)
        is_sound = rng.random() < 0.5
        for place in range(rng.choice((1, 2, 5, 20))):
            name = rng.choice(["a", "é", "\u2028", "\0", "x" * 400]) + str(place)
            line: Any = {"custom_id": name, "method": "POST", "url": endpoint}
            line["body"] = {**BODIES[endpoint], "user": rng.choice(TEXTS)}
            text = json.dumps(line, ensure_ascii=rng.random() < 0.5).encode()
            if not is_sound and rng.random() < 0.5:
                ids = None
                how = rng.randrange(4)
                if how == 0:
                    text = rng.choice(SPOILT)
                elif how == 1:
                    text = broken(rng, text)
                elif how == 2:
                    text += end.encode() + text  # its id twice
                else:
                    line = self.mutator.mutated(rng, line)
                    text = encoded(line).encode("utf-8", "surrogatepass")
            elif ids is not None:
                ids.append(name)
            data += text + end.encode()
        if rng.random() < 0.3:
            data = data.removesuffix(end.encode())
        return data, ids

    def _ask(
        self,
        number: int,
        what: str,
        method: str,
        path: str,
        owner: str,
        body: bytes = b"",
        kind: str = "application/json",
    ) -> Answer | None:
        headers = {**self.subject.key_headers(), "Content-Type": kind}
        if owner:
            headers["Authorization"] = f"Bearer {owner}"
        return self.subject.attempt(Case(number, f"batches.{what}", method, path, headers, body))

    def _poll(self, number: int, batch: Batch) -> bool:
        """Whether a batch has ended; its results are judged then."""
        answer = self._ask(number, "read", "GET", f"/v1/batches/{batch.key}", batch.owner)
        if answer is None or answer.status not in (200, 404):
            return False
        said = json.loads(answer.body)
        if answer.status == 404 and not self._is_lost(batch):
            self.subject.find("a batch is gone", None, batch.key)
        if answer.status == 200 and said["status"] in OPEN:
            return False
        with self._lock:
            if batch not in self._batches:
                return True
            self._batches.remove(batch)
        self.ends[said["status"] if answer.status == 200 else "gone"] += 1
        if answer.status == 200:
            self._judge(number, batch, said)
        return True

    def _is_lost(self, batch: Batch) -> bool:
        """Whether its input file, or all data of its key, was deleted."""
        return batch.is_lost or batch.born <= self._wiped.get(batch.owner, 0.0)

    def _judge(self, number: int, batch: Batch, said: dict[str, Any]) -> None:
        results: list[str] = []
        for name in ("output_file_id", "error_file_id"):
            if said[name]:
                path = f"/v1/files/{said[name]}/content"
                answer = self._ask(number, "results", "GET", path, batch.owner)
                if answer is not None and answer.status == 200 and answer.whole:
                    lines = answer.body.decode().removesuffix("\n").split("\n")
                    results += [json.loads(line)["custom_id"] for line in lines]
                if not self._is_lost(batch):
                    self._ask(number, "file", "DELETE", f"/v1/files/{said[name]}", batch.owner)
        if self._is_lost(batch):
            return
        self._ask(number, "file", "DELETE", f"/v1/files/{batch.file}", batch.owner)
        status = said["status"]
        if status == "failed" and not (said["errors"] or {}).get("data"):
            self.subject.find("a batch failed without an error", None, str(said))
        counts = said["request_counts"]
        if status != "failed" and counts["completed"] + counts["failed"] != counts["total"]:
            self.subject.find("the counts of a batch do not fit", None, str(said))
        if batch.ids is None:
            return
        if status == "failed" or (status == "cancelled") > batch.is_cancelled:
            self.subject.find(f"a sound batch is {status}", None, str(said))
        if status != "failed":
            if sorted(results) != sorted(batch.ids):
                more = f"{said}\nlines {batch.ids}\nresults {results}"[:3000]
                self.subject.find("a line has no result, or several", None, more)
            self.lines += len(results)

    def finish(self) -> None:
        """Checks that all batches end."""
        end = time.monotonic() + PATIENCE
        for batch in list(self._batches):
            while not self._poll(0, batch):
                if time.monotonic() > end:
                    self.subject.find("a batch does not end", None, batch.key)
                    return
                time.sleep(0.1)


def fuzz(
    subject: Subject, seed: int, *, seconds: float = 0.0, count: int = 0
) -> tuple[Report, Fuzzer]:
    """Tries cases for a time or up to a number."""
    fuzzer = Fuzzer(subject, seed)
    report = drive(subject, fuzzer.attempt, seconds=seconds, count=count)
    fuzzer.finish()
    subject.look()
    return report, fuzzer


def main(argv: list[str] | None = None) -> int:
    def work(subject: Subject, seed: int, seconds: float) -> tuple[Report, list[str]]:
        report, fuzzer = fuzz(subject, seed, seconds=seconds)
        return report, [f"batches: {dict(fuzzer.ends)}; lines with results: {fuzzer.lines}"]

    return command("tests.fuzz.batches", __doc__, work, argv)


if __name__ == "__main__":
    sys.exit(main())
