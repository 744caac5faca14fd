"""Models whose servers speak another HTTP API, started and swapped by a real gateway."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.fakes import key_file, wait_until
from tests.integration.asking import openai_client
from tools.processes import Gateway, ModelServer

from .conftest import StartGateway
from .test_hosted_models import status, table

SERVER = Path(__file__).parents[1] / "other_http_server.py"
HELLO: Any = [{"role": "user", "content": "Hello"}]
COMMAND = [sys.executable, str(SERVER), "${PORT}"]


def other(name: str, **keys: Any) -> str:
    """A [[model]] table of the small server."""
    keys = {"name": name, "kind": "http", "command": COMMAND, **keys}
    return "\n".join(["[[model]]", *(f"{k} = {json.dumps(v)}" for k, v in keys.items()), ""])


@pytest.fixture(scope="module")
def served(module_gateway: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    file = tmp_path_factory.mktemp("config") / "slotproxy.toml"
    tables = [
        other("whisper", aliases=["whisper-1"], server_model="large-v3", strip=["user"]),
        other("painter", concurrency=2),
        other("folder/deep"),
    ]
    file.write_text("\n".join(tables))
    yield module_gateway("--config", str(file), "--max-document", "300000")


@pytest.fixture
def client(served: Gateway) -> Iterator[openai.OpenAI]:
    with openai_client(served, "secret") as client:
        yield client


def test_sound_is_transcribed_by_the_model_that_the_form_names(client: openai.OpenAI) -> None:
    sound = ('a "b" é.wav', b"RIFF\0\r\n--x" * 1000, "audio/wav")
    heard: Any = client.audio.transcriptions.create(
        file=sound, model="whisper-1", timestamp_granularities=["word", "segment"], prompt="né"
    )
    assert heard.text == "10000 bytes"
    form = heard.model_extra["form"]
    assert form["model"] == "large-v3"
    assert form["timestamp_granularities[]"] == ["word", "segment"]
    assert form["prompt"].encode("latin-1").decode() == "né"
    assert form["type"] == "audio/wav"


def test_speech_arrives_as_it_is_made(client: openai.OpenAI) -> None:
    fields = {"model": "painter", "voice": "alloy", "input": "la" * 50}
    arrived: list[float] = []
    parts: list[bytes] = []
    how = client.audio.speech.with_streaming_response
    with how.create(**fields, extra_body={"pause": 2.0}) as speech:  # type: ignore[arg-type]
        assert speech.headers["content-type"] == "audio/wav"
        for part in speech.iter_bytes():
            arrived.append(time.monotonic())
            parts.append(part)
    assert b"".join(parts) == b"la" * 50
    assert arrived[-1] - arrived[0] > 0.1


def test_image_is_edited_and_a_refusal_of_the_server_arrives_as_it_is(
    client: openai.OpenAI,
) -> None:
    picture = ("p.png", b"\x89PNG" * 60_000, "image/png")
    edited: Any = client.images.edit(model="painter", image=[picture], prompt="snow")
    assert edited.size > 240_000
    with pytest.raises(openai.UnprocessableEntityError, match="no such size"):
        client.images.generate(model="painter", prompt="impossible")


def test_server_of_chats_has_no_images_or_speech(
    new_server: ModelServer, module_gateway: Any
) -> None:
    """An error that says what to do, instead of llama-server's "File Not Found"."""
    gateway = module_gateway("--llama-api", new_server.url)
    with openai_client(gateway, "secret") as client:
        (model,) = client.models.list().data
        with pytest.raises(openai.BadRequestError, match="has no /v1/images/generations: name a"):
            client.images.generate(model=model.id, prompt="snow")
        with pytest.raises(openai.BadRequestError, match="has no /v1/audio/speech: name a"):
            client.audio.speech.create(model=model.id, voice="alloy", input="la")
        with pytest.raises(openai.BadRequestError, match="has no /v1/audio/transcriptions: name a"):
            client.audio.transcriptions.create(model=model.id, file=("a.wav", b"RIFF"))
        with pytest.raises(openai.NotFoundError, match="'tts-1' does not exist") as refused:
            client.audio.speech.create(model="tts-1", voice="alloy", input="la")
        assert model.id not in str(refused.value)  # it could not do it either
        with pytest.raises(openai.BadRequestError, match="model is missing"):
            client.images.generate(prompt="snow")


def test_unknown_model_of_images_is_answered_with_the_models_that_may_make_them(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.NotFoundError, match="use whisper or "):
        client.images.generate(model="dall-e-3", prompt="snow")


def test_server_sees_no_key_or_cookie_and_sets_none(served: Gateway) -> None:
    sent = {"Authorization": "Bearer secret", "X-Api-Key": "secret", "Cookie": "a=secret"}
    answer = httpx.post(
        f"{served.url}/sdapi/v1/txt2img", json={"model": "painter", "user": "me"}, headers=sent
    )
    got = answer.json()
    assert got["path"] == "/sdapi/v1/txt2img"
    assert "secret" not in answer.text
    assert set(got["headers"]) <= {"host", "content-type", "content-length", "accept", "user-agent"}
    assert "set-cookie" not in answer.headers and "x-powered-by" not in answer.headers
    assert answer.headers["content-security-policy"] == "sandbox"


def test_any_path_of_a_server_is_reached_below_its_model(served: Gateway) -> None:
    base = f"{served.url}/upstream"
    got = httpx.get(f"{base}/folder/deep/a%20b/c?d=e%2F&f").json()
    assert got["path"] == "/a%20b/c?d=e%2F&f"
    got = httpx.post(f"{base}/whisper-1/inference", content=b"abc").json()
    assert (got["path"], got["body"]) == ("/inference", "abc")
    assert httpx.delete(f"{base}/painter/x").json() == {"deleted": "/x"}
    assert httpx.head(f"{base}/painter/").status_code == 200
    refused = httpx.get(f"{base}/painter/a/%2e%2e/b")
    assert (refused.status_code, "may not contain" in refused.text) == (400, True)
    assert httpx.get(f"{base}/unknown/x").status_code == 404
    sent = {"Sec-Fetch-Site": "cross-site"}
    assert httpx.get(f"{base}/painter/", headers=sent).status_code == 403


def test_redirect_of_a_server_is_neither_followed_nor_passed_on(served: Gateway) -> None:
    answer = httpx.get(f"{served.url}/upstream/painter/redirected")
    assert answer.status_code == 302
    assert "location" not in answer.headers


def test_requests_beyond_the_concurrency_wait(served: Gateway) -> None:
    url = f"{served.url}/upstream/painter"
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: httpx.post(f"{url}/slow", timeout=60), range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert httpx.get(f"{url}/seen").json()["most"] == 2


def test_server_notices_that_the_client_has_left(served: Gateway) -> None:
    body = {"model": "painter", "input": "la" * 100_000, "pause": 1.0}
    with httpx.stream("POST", f"{served.url}/v1/audio/speech", json=body) as speech:
        next(speech.iter_bytes())
    seen = f"{served.url}/upstream/painter/seen"
    wait_until(lambda: httpx.get(seen).json()["ended"] == ["/v1/audio/speech"])


def test_answer_that_breaks_off_is_an_error(served: Gateway) -> None:
    broken = httpx.post(f"{served.url}/upstream/painter/die")
    assert broken.status_code == 502
    assert "error" in broken.json()
    assert "Traceback" not in served.log


def test_chat_with_such_a_model_is_refused(client: openai.OpenAI, served: Gateway) -> None:
    with pytest.raises(
        openai.BadRequestError, match="no text API: send its requests to /v1/audio, "
    ):
        client.chat.completions.create(model="whisper-1", messages=HELLO)
    with pytest.raises(openai.NotFoundError):
        client.audio.transcriptions.create(file=("a.wav", b"x"), model="gone")
    listed = {model.id for model in client.models.list()}
    assert listed == {"whisper", "painter", "folder/deep"}


def test_such_a_model_swaps_with_a_model_of_chats(
    serve: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    tables = other("whisper") + table("m", made_up_model, tmp_path)
    gateway = serve(tables, "--models-max", "1", "--chat-template", "legacy")
    chat = {"messages": HELLO, "max_tokens": 2}

    def speak() -> int:
        body = {"model": "whisper", "input": "abc"}
        return httpx.post(f"{gateway.url}/v1/audio/speech", json=body, timeout=60.0).status_code

    def talk() -> int:  # a name that no model has means the only one that chats
        url = f"{gateway.url}/v1/chat/completions"
        return httpx.post(url, json={**chat, "model": "gpt-4"}, timeout=60.0).status_code

    page = httpx.get(f"{gateway.url}/")
    assert page.status_code == 200
    assert "whisper" not in page.text  # the chat page offers models of chats only
    for _ in range(2):
        assert speak() == 200
        assert (status(gateway, "whisper"), status(gateway, "m")) == ("loaded", "unloaded")
        assert talk() == 200
        assert (status(gateway, "whisper"), status(gateway, "m")) == ("unloaded", "loaded")
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda ask: ask(), (speak, talk))) == [200, 200]


def test_only_admins_reach_other_paths(serve: StartGateway, tmp_path: Path) -> None:
    keys = key_file(tmp_path, "admin key-of-admin\nother key-of-other\n")
    gateway = serve(other("whisper"), "--api-key-file", keys, "--admins", "admin")

    def ask(path: str, key: str) -> int:
        head = {"Authorization": f"Bearer {key}"} if key else {}
        body = {"model": "whisper", "input": "x"}
        return httpx.post(f"{gateway.url}{path}", json=body, headers=head, timeout=60).status_code

    assert ask("/v1/audio/speech", "key-of-other") == 200
    assert ask("/v1/audio/speech", "") == 401
    assert ask("/upstream/whisper/x", "key-of-other") == 403
    assert ask("/upstream/whisper/x", "key-of-admin") == 200
