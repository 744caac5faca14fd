"""Probes of each generation of servers, on their recorded answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.backends.driver import Capabilities, OnCapabilities, ignore
from proxy.backends.http import ConnectionPool
from proxy.backends.probe import probe
from proxy.errors import BackendDown, UpstreamFault, UpstreamTimeout

from .rawserver import LAST_CHUNK, RawServer, Step, event, head, streamed

OLD_LAST = {"content": "", "stop": True, "slot_id": 0, "stopped_limit": True}
NEW_LAST = {"content": "", "stop": True, "id_slot": 0, "stop_type": "limit"}
NEW_PROPS = {
    "default_generation_settings": {"n_ctx": 4096},
    "total_slots": 4,
    "model_path": "/models/tiny.gguf",
    "modalities": {"vision": True, "audio": False},
    "chat_template": "{{ messages }}",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "build_info": "b1-abc",
}


ADAPTERS = json.dumps(
    [
        {"id": 0, "path": "/l/poet.gguf", "scale": 0.5, "task_name": ""},
        {"id": 1, "path": "C:\\l\\poet.gguf", "scale": 0.0},
        {"id": 999, "path": "beyond", "scale": 1},
    ]
).encode()


def token(**last: Any) -> bytes:
    return streamed(event(**last))


REFUSED = head(4, "501 Not Implemented") + b"none"


def found(
    answers: dict[str, tuple[int, Any]],
    completion: Step,
    *more: Step,
    seconds: float = 60.0,
    model_file: bool = True,
    on_capabilities: OnCapabilities = ignore,
) -> Capabilities:
    """Probes a server that gives `answers` to GET (others are 404), `completion` to the request for
    a token, and `more` to later POSTs."""
    documents = []
    for path in ("/props", "/health", "/v1/models", "/model.json"):
        status, value = answers.get(path, (404, "File Not Found"))
        data = (value if isinstance(value, str) else json.dumps(value)).encode()
        documents.append(head(len(data), f"{status} Status") + data)
    with RawServer(*[[step] for step in (*documents, completion, *more)]) as server:
        pool = ConnectionPool(server.url, timeout=60, idle=0)
        try:
            return probe(server.url, pool, seconds, on_capabilities, model_file=model_file)
        finally:
            pool.close()


def test_probe_of_llama_cpp_2023() -> None:
    caps = found(
        {
            "/props": (200, {"user_name": ""}),
            "/v1/models": (200, {"data": [{"id": "/m/x.gguf"}]}),
            "/model.json": (200, {"n_ctx": 2048}),
        },
        token(**OLD_LAST),
    )
    assert (caps.dialect, caps.models, caps.honours_seed) == ("2023", ("x",), False)


def test_probe_of_llama_server_2026() -> None:
    caps = found(
        {
            "/props": (200, NEW_PROPS),
            "/health": (200, {"status": "ok"}),
            "/v1/models": (200, {"data": [{"id": "tiny.gguf"}]}),
        },
        REFUSED,  # to say whether it puts BOS before a prompt
        token(**NEW_LAST),
        *[REFUSED] * 3,
        head(len(ADAPTERS)) + ADAPTERS,
    )
    assert (caps.dialect, caps.slot_field) == ("llama-server", "id_slot")
    assert not caps.ram_cache  # as it did not say it
    assert (caps.slots, caps.n_ctx) == (4, 4096)
    assert caps.queues and caps.honours_seed and caps.modern_sampling and not caps.truncates
    assert (caps.vision, caps.audio) == (True, False)
    assert (caps.template, caps.bos_token, caps.eos_token) == ("{{ messages }}", "<s>", "</s>")
    names = [(adapter.id, adapter.name, adapter.scale) for adapter in caps.adapters]
    assert names == [(0, "poet", 0.5), (1, "1", 0.0)]  # each has a name of its own


def test_requests_that_come_before_the_first_token_know_who_writes_bos() -> None:
    tokens = json.dumps({"tokens": []}).encode()
    known: list[Capabilities] = []
    caps = found(
        {"/props": (200, NEW_PROPS), "/health": (200, {"status": "ok"})},
        head(len(tokens)) + tokens,
        token(**NEW_LAST),
        *[REFUSED] * 4,
        on_capabilities=known.append,
    )
    assert [each.adds_bos for each in (*known, caps)] == [False, False]


def test_probe_of_llama_cpp_early_2024() -> None:
    """It queues and reports its slots, but still has the names of 2023."""
    props = {"default_generation_settings": {"n_ctx": 1024}, "total_slots": 2}
    caps = found(
        {
            "/props": (200, props),
            "/health": (200, {"status": "ok"}),
            "/v1/models": (200, {"data": []}),
        },
        token(**OLD_LAST),
        REFUSED,
    )
    assert (caps.dialect, caps.slot_field, caps.slots) == ("2024", "slot_id", 2)
    assert caps.queues and caps.truncates and not caps.modern_sampling


def test_busy_server_is_up() -> None:
    answers = {"/props": (200, {"user_name": ""})}
    assert found(answers, head(None) + LAST_CHUNK).dialect == "powerinfer"


@pytest.mark.parametrize(
    ("answers", "words"),
    [({}, "another program"), ({"/v1/models": (200, {"data": [{"id": "m"}]})}, 'kind = "openai"')],
)
@pytest.mark.parametrize("refusal", [b"404 page not found", b"no such page" * 20])
def test_a_404_of_another_program_is_not_a_busy_server(
    answers: dict[str, tuple[int, Any]], words: str, refusal: bytes
) -> None:
    with pytest.raises(UpstreamFault, match=words):
        found(answers, head(len(refusal), "404 Not Found") + refusal)


def test_loading_server_is_not_up() -> None:
    with pytest.raises(BackendDown):
        found({"/props": (503, {"error": {"message": "Loading model"}})}, token(**NEW_LAST))


def test_hanging_server_without_token_is_not_up() -> None:
    with pytest.raises(UpstreamTimeout):
        found({"/props": (200, {"user_name": ""})}, head(None), seconds=0.3)


def test_unknown_kind_of_server_is_not_a_backend() -> None:
    with pytest.raises(UpstreamFault):
        found({}, head(3, "500 Internal Server Error") + b"odd")


@pytest.mark.parametrize("odd", [7, [], {"default_generation_settings": 5, "total_slots": "x"}])
def test_malformed_probe_answers_are_ignored(odd: Any) -> None:
    caps = found({"/props": (200, odd), "/v1/models": (200, odd)}, token(**OLD_LAST))
    assert (caps.slots, caps.n_ctx) == (0, 0)
