"""Recordings, by OpenAI's own client: servers of whisper.cpp, which have an API of their own, and
llama-servers that hear."""

from __future__ import annotations

import json
import socket
import struct
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.audio import Transcription, TranscriptionVerbose, TranslationVerbose

from tests.fakes import key_file, wait_until
from tests.http_fakes import FakeHandler, FakeServer
from tests.integration.asking import in_flight, openai_client
from tests.whisper_server import WhisperFake
from tools.processes import Gateway

from .conftest import StartGateway

ROOT = Path(__file__).parents[2]
TEXT = "Seven green bottles, déjà vu."


def wav(seconds: float, rate: int = 16_000, size: int | None = None) -> bytes:
    """Silence. `size`: so many bytes only, whatever the header says."""
    length = int(seconds * rate) * 2
    head = b"RIFF" + struct.pack("<I", (36 + length) & 0xFFFFFFFF) + b"WAVEfmt "
    head += struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    return head + b"data" + struct.pack("<I", length) + bytes(length if size is None else size)


FILE = ("a.wav", wav(0.1), "audio/wav")


@pytest.fixture(scope="module")
def whisper() -> Iterator[WhisperFake]:
    with WhisperFake() as server:
        yield server


@pytest.fixture(scope="module")
def served(whisper: WhisperFake, module_gateway: StartGateway) -> Gateway:
    return module_gateway("--llama-api", whisper.url)


@pytest.fixture
def client(served: Gateway) -> Iterator[openai.OpenAI]:
    with openai_client(served) as client:
        yield client


def test_a_server_of_whisper_is_found_and_gets_the_fields_that_it_knows(
    client: openai.OpenAI, whisper: WhisperFake
) -> None:
    assert [model.id for model in client.models.list().data] == ["whisper-1"]
    heard = client.audio.transcriptions.create(
        file=FILE, model="whisper-1", prompt="né", temperature=0.5
    )
    assert isinstance(heard, Transcription)
    assert heard.text == TEXT
    assert heard.usage is not None
    assert heard.usage.model_dump() == {"type": "duration", "seconds": 3.25}
    assert whisper.files[-1] == FILE[1]
    assert whisper.forms[-1] == {
        "response_format": "verbose_json",
        "language": "auto",  # otherwise it takes English for granted
        "token_timestamps": "false",
        "no_language_probabilities": "true",
        "prompt": "né",
        "temperature": "0.5",
    }


def test_every_format_has_its_form(client: openai.OpenAI) -> None:
    create: Any = client.audio.transcriptions.create
    assert create(file=FILE, model="whisper-1", response_format="text") == f"{TEXT}\n"
    assert create(file=FILE, model="whisper-1", response_format="srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\nSeven green\n\n"
        "2\n00:00:01,500 --> 00:00:03,250\nbottles, déjà vu.\n\n"
    )
    assert create(file=FILE, model="whisper-1", response_format="vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nSeven green\n\n"
        "00:00:01.500 --> 00:00:03.250\nbottles, déjà vu.\n\n"
    )
    verbose = create(file=FILE, model="whisper-1", response_format="verbose_json")
    assert isinstance(verbose, TranscriptionVerbose)
    assert (verbose.duration, verbose.language, verbose.words) == (3.25, "english", None)
    assert verbose.segments is not None
    assert next((s.text, s.end) for s in verbose.segments) == (" Seven green", 1.5)
    with pytest.raises(openai.BadRequestError, match="response_format must be one of json, text"):
        create(file=FILE, model="whisper-1", response_format="diarized_json")


def test_words_are_joined_from_their_pieces(client: openai.OpenAI) -> None:
    options: Any = {"file": FILE, "model": "whisper-1", "response_format": "verbose_json"}
    create: Any = client.audio.transcriptions.create
    verbose = create(**options, timestamp_granularities=["word"])
    assert verbose.segments is None
    words = [(word.word, word.start, word.end) for word in verbose.words]
    assert words == [("Seven", 0.0, 0.8), ("green", 0.8, 1.5)]
    both = create(**options, timestamp_granularities=["word", "segment"])
    assert [segment.text for segment in both.segments] == [" Seven green", " bottles, déjà vu."]


def test_a_translation_is_one(client: openai.OpenAI, whisper: WhisperFake) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # so says the client
        translated: Any = client.audio.translations.create(
            file=FILE, model="whisper-1", response_format="verbose_json"
        )
    assert isinstance(translated, TranslationVerbose)
    assert translated.to_dict()["task"] == "translate"
    assert whisper.forms[-1]["translate"] == "true"


def test_a_stream_has_the_deltas_and_the_whole_text(client: openai.OpenAI) -> None:
    stream = client.audio.transcriptions.create(file=FILE, model="whisper-1", stream=True)
    *deltas, done = [*stream]
    assert [event.type for event in deltas] == ["transcript.text.delta"] * 2
    assert done.type == "transcript.text.done"
    assert done.text == TEXT == "".join(getattr(event, "delta", "") for event in deltas)


@pytest.mark.parametrize(
    ("file", "fields", "words"),
    [
        (("a.webm", b"broken", "audio/webm"), {}, "could not read the file: send WAV"),
        (("a.webm", b"inconvertible", "audio/webm"), {}, "could not read the file: send WAV"),
        (("a.wav", wav(4 * 3600 + 1, rate=8, size=0), "audio/wav"), {}, None),
        (("a.wav", wav(4 * 3600 + 1, rate=8), "audio/wav"), {}, "may last at most 14400 seconds"),
        (FILE, {"temperature": 1.5}, "temperature must be a number"),
        (FILE, {"language": "english; --x"}, "language must be a code"),
        (FILE, {"language": "xx"}, "language must be a code that Whisper knows"),
        (FILE, {"language": "zh-CN"}, None),
        (FILE, {"timestamp_granularities": ["letter"]}, "must be word or segment"),
    ],
    ids=[
        "unreadable",
        "inconvertible",
        "header only",
        "too long",
        "temperature",
        "no code",
        "unknown language",
        "region",
        "granularity",
    ],
)
def test_a_refusal_says_what_to_do(
    client: openai.OpenAI, file: Any, fields: Any, words: str | None
) -> None:
    create = client.audio.transcriptions.create
    if words is None:
        assert create(file=file, model="whisper-1", **fields).text
        return
    with pytest.raises(openai.BadRequestError, match=words):
        create(file=file, model="whisper-1", **fields)


def test_what_is_no_recording_and_an_odd_answer_are_errors(served: Gateway) -> None:
    url = f"{served.url}/v1/audio/transcriptions"
    answer = httpx.post(url, files={"model": (None, "whisper-1")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    answer = httpx.post(url, json={"model": "whisper-1", "file": "x"})
    assert (answer.status_code, "as a form" in answer.text) == (400, True)
    odd: Any = {"file": ("a.wav", b"odd", "audio/wav"), "model": (None, "whisper-1")}
    answer = httpx.post(url, files=odd)
    assert (answer.status_code, "invalid response" in answer.text) == (502, True)
    chat = {"model": "whisper-1", "messages": [{"role": "user", "content": "Hi"}]}
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=chat)
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        400,
        "the model whisper-1 has no text API: send its requests to /v1/audio/transcriptions",
    )


def test_a_client_that_leaves_ends_the_work_of_the_server(gateway: StartGateway) -> None:
    with WhisperFake(holds=True) as whisper:
        served = gateway("--llama-api", whisper.url)
        request = httpx.Request(
            "POST",
            f"{served.url}/v1/audio/transcriptions",
            files={"file": FILE, "model": (None, "whisper-1")},
        )
        where = request.url
        with socket.create_connection((where.host, where.port or 80), timeout=30) as client:
            lines = [f"{name}: {value}" for name, value in request.headers.items()]
            head = "\r\n".join([f"POST {where.path} HTTP/1.1", *lines, "", ""])
            client.sendall(head.encode() + request.read())
            wait_until(lambda: len(whisper.forms) == 1)
        assert whisper.left.wait(60)
        wait_until(lambda: in_flight(served.url) == 0)
        whisper.go.set()
        with openai_client(served) as again:
            assert again.audio.transcriptions.create(file=FILE, model="whisper-1").text


def test_two_at_once_wait_in_line_and_the_ledger_says_how_long(
    gateway: StartGateway, tmp_path: Path
) -> None:
    with WhisperFake(holds=True) as whisper, ThreadPoolExecutor(2) as threads:
        served = gateway("--llama-api", whisper.url, "--data", str(tmp_path))
        url = f"{served.url}/v1/audio/transcriptions"
        form: Any = {"file": FILE, "model": (None, "whisper-1")}
        answers = [threads.submit(httpx.post, url, files=form, timeout=100) for _ in range(2)]
        try:
            wait_until(lambda: len(httpx.get(f"{served.url}/v1/slots").json()["queue"]) == 1, 30)
            wait_until(lambda: len(whisper.forms) == 1, 30)
        finally:
            whisper.go.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]
        assert len(whisper.forms) == 2

        def total() -> Any:
            return httpx.get(f"{served.url}/v1/usage").json()["total"]

        wait_until(lambda: total()["requests"] == 2, 30)
        assert total()["queue_seconds"] > 0


@pytest.mark.parametrize("form", ["json", "srt"])
def test_seconds_of_recordings_count_as_tokens(
    whisper: WhisperFake, gateway: StartGateway, tmp_path: Path, form: Any
) -> None:
    keys = key_file(tmp_path, "ops sk-ops\n")
    stored = ("--api-key-file", keys, "--admins", "ops", "--data", str(tmp_path / "data"))
    served = gateway("--llama-api", whisper.url, *stored)
    ops = {"Authorization": "Bearer sk-ops"}
    limits = {"limits": {"tokens": {"day": 60}}}
    made = httpx.post(f"{served.url}/key/generate", json=limits, headers=ops).json()
    with openai_client(served, made["key"]) as client:
        create = client.audio.transcriptions.create
        for _ in range(2):  # 3.25 seconds each
            assert create(file=FILE, model="whisper-1", response_format=form)
        with pytest.raises(openai.RateLimitError, match="tokens"):
            create(file=FILE, model="whisper-1", response_format=form)


def test_a_server_that_the_gateway_starts_answers_alike(
    gateway: StartGateway, tmp_path: Path
) -> None:
    command = json.dumps([sys.executable, "-m", "tests.whisper_server", "${PORT}"])
    file = tmp_path / "slotproxy.toml"
    file.write_text(
        f'[[model]]\nname = "ears"\nkind = "whisper"\ncommand = {command}\nfolder = "{ROOT}"\n'
    )
    served = gateway("--config", str(file))
    with openai_client(served) as client:
        heard = client.audio.transcriptions.create(file=FILE, model="ears")
        assert heard.text == TEXT
        assert heard.usage is not None
        assert heard.usage.type == "duration"
        with pytest.raises(openai.BadRequestError, match="requests to /v1/audio/transcriptions"):
            client.chat.completions.create(
                model="ears", messages=[{"role": "user", "content": "Hi"}]
            )
    assert httpx.get(f"{served.url}/upstream/ears/health").json() == {"status": "ok"}


# -- llama-servers that hear


REFUSALS: dict[bytes, dict[str, Any]] = {  # by the beginning of a file
    b"not a recording": {
        "message": "Failed to load image or audio file",
        "type": "invalid_request_error",
    },
    b"an hour": {
        "message": "request (7935 tokens) exceeds the available context size (2048 tokens), try"
        " increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 7935,
        "n_ctx": 2048,
    },
}


class _Hears(FakeHandler):
    forms: list[bytes]

    def do_GET(self) -> None:
        pages: dict[str, Any] = {
            "/props": {
                "default_generation_settings": {"n_ctx": 512},
                "total_slots": 1,
                "modalities": {"vision": False, "audio": True},
                "chat_template": "{{ messages[0].content }}",
            },
            "/health": {"status": "ok"},
            "/v1/models": {"object": "list", "data": [{"id": "hears", "owned_by": "llamacpp"}]},
        }
        page = pages.get(self.path.partition("?")[0])
        self.send(page or {}, 200 if page else 404)

    def do_POST(self) -> None:
        if self.path == "/v1/audio/transcriptions":
            self.forms.append(self.rfile.read(int(self.headers["Content-Length"])))
            for mark, refusal in REFUSALS.items():
                if mark in self.forms[-1]:
                    return self.send({"error": {"code": 400, **refusal}}, 400)
            usage = {"type": "tokens", "input_tokens": 40, "output_tokens": 7, "total_tokens": 47}
            done = {"type": "transcript.text.done", "text": TEXT, "usage": usage}
            if b'name="stream"\r\n\r\ntrue' not in self.forms[-1]:
                return self.send(done)
            self.begin_stream()
            self.send_event({"type": "transcript.text.delta", "delta": TEXT})
            self.send_event(done)
            return self.end_stream()
        body = self.body()
        if self.path == "/completion":
            self.begin_stream()
            self.send_event({"content": "a", "stop": True, "id_slot": 0, "stop_type": "limit"})
            return self.end_stream()
        return self.send({"tokens": [1]} if "content" in body else {}, 200)


@pytest.fixture(scope="module")
def llama(module_gateway: StartGateway) -> Iterator[tuple[Gateway, list[bytes]]]:
    forms: list[bytes] = []
    with FakeServer(_Hears, forms=forms) as server:
        yield module_gateway("--llama-api", server.url), forms


def test_a_llama_server_hears(llama: tuple[Gateway, list[bytes]]) -> None:
    gateway, forms = llama
    with openai_client(gateway) as client:
        create: Any = client.audio.transcriptions.create
        heard = create(file=FILE, model="hears", language="de")
        assert (heard.text, heard.usage.input_tokens) == (TEXT, 40)
        assert b'name="language"\r\n\r\nde\r\n' in forms[-1]
        assert create(file=FILE, model="hears", response_format="text") == f"{TEXT}\n"
        assert b'name="response_format"\r\n\r\njson\r\n' in forms[-1]
        *_, done = create(file=FILE, model="hears", stream=True)
        assert done.text == TEXT
        with pytest.raises(openai.BadRequestError, match="llama-server does not know: use json"):
            create(file=FILE, model="hears", response_format="srt")


def test_what_a_llama_server_refuses_has_the_form_of_our_errors(
    llama: tuple[Gateway, list[bytes]],
) -> None:
    with openai_client(llama[0]) as client:
        create: Any = client.audio.transcriptions.create
        with pytest.raises(openai.BadRequestError, match="Failed to load") as refused:
            create(file=("a.wav", b"not a recording"), model="hears")
        assert refused.value.code is None
        with pytest.raises(openai.BadRequestError, match="7935") as refused:
            create(file=("a.wav", b"an hour"), model="hears", response_format="text")
        assert refused.value.code == "context_length_exceeded"
