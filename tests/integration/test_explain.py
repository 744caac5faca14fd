"""Why a prompt was evaluated: causes staged on real servers, and the sentence compared with the
deed."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest

from proxy.observe.ring import sentences
from tests.fakes import key_file, wait_until
from tools.processes import Gateway, ModelServer

from .asking import ended, fetch
from .conftest import StartGateway, StartServer

KEYS = ("ann", "bob", "cat")
SECRETS = {name: f"sk-{name}-0123456789" for name in KEYS}
FLAGS = ("--slots", "1", "--health-interval", "0.2", "--admins", "ann")
WITHOUT_RAM = {"llama-2023": (), "llama-2026": ("--cache-ram", "0")}
TEMPLATE = """Be kind.
{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
_numbers = itertools.count()

Message = dict[str, str]


class Talk:
    """A conversation of this key, of some hundred tokens a turn."""

    def __init__(self, gateway: Gateway, key: str = "ann") -> None:
        self.url, self.key, self.number = gateway.url, key, next(_numbers)
        self.messages: list[Message] = []

    def turn(self, say: str = "", **body: Any) -> dict[str, Any]:
        """Take the next turn. Returns the report of its request."""
        say = say or f"{self.number}: " + " ".join(f"sail {self.number * n}" for n in range(40))
        self.messages.append({"role": "user", "content": say})
        body = {"messages": self.messages, "max_tokens": 4} | body
        head = {"Authorization": f"Bearer {SECRETS[self.key]}"}
        status, headers, answer = fetch(self.url, "/v1/chat/completions", body, head)
        assert status == 200, answer
        text = answer["choices"][0]["message"]["content"]
        self.messages.append({"role": "assistant", "content": text})
        return ended(self.url, headers["x-request-id"], head)


def reason(request: dict[str, Any], cause: str) -> dict[str, Any]:
    """The values of the reason of a request, whose sentence is checked."""
    why = request["decision"]["reason"]
    assert why["cause"] == cause, request
    assert why["sentence"] == sentences()[cause].format_map(why["values"])
    if cause not in ("warm", "context"):  # a summary is counted with its request
        assert 2 * request["cached_tokens"] < request["prompt_tokens"]
    return dict(why["values"])


def up(gateway: Gateway, count: int) -> None:
    wait_until(lambda: fetch(gateway.url, "/health")[2]["backends"]["up"] == count)


@pytest.fixture(scope="module", params=WITHOUT_RAM)
def server(request: pytest.FixtureRequest, start_server: StartServer) -> ModelServer:
    """One slot, and no other place for prompts."""
    extra = WITHOUT_RAM[request.param]
    return start_server(request.param, slots=1, ctx=2048, extra=(*extra, "--alias", "one"))


@pytest.fixture
def running(server: ModelServer, module_gateway: StartGateway, keys: str) -> Gateway:
    if not server.alive:
        server.start()
    template = ("--chat-template", "legacy") if server.name == "llama-2023" else ()
    gateway = module_gateway("--llama-api", server.url, "--api-key-file", keys, *FLAGS, *template)
    up(gateway, 1)
    return gateway


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> str:
    lines = [f"{name} {secret} group=all" for name, secret in SECRETS.items()]
    text = "\n".join(lines) + " on_overflow=compact\n"  # of the last one
    return key_file(tmp_path_factory.mktemp("keys"), text)


def test_next_turn_is_warm(running: Gateway) -> None:
    talk = Talk(running)
    reason(talk.turn(), "new")
    second = talk.turn()
    reason(second, "warm")
    assert second["cached_tokens"] >= second["decision"]["expected_tokens"] // 2


def test_slot_that_another_key_took(running: Gateway) -> None:
    talk = Talk(running)
    talk.turn()
    taken = Talk(running, "bob").turn()
    request = talk.turn()
    values = reason(request, "evicted_key")
    assert (values["backend"], values["slot"]) == (request["backend"], taken["slot"])
    bobs, own = request["slot_before"][:2]
    assert (bobs["id"], bobs["key"], own["key"]) == (taken["id"], "bob", "ann")
    assert own["then"] == bobs["then"] == "replaced"
    assert abs(values["seconds"] - (request["placed"] - bobs["began"])) <= 1


def test_conversation_that_is_too_long(running: Gateway) -> None:
    talk = Talk(running, "cat")
    for _ in range(12):
        request = talk.turn()
        if request["decision"]["reason"]["cause"] == "context":
            break
    values = reason(request, "context")
    assert 0 < values["messages"] < len(talk.messages)
    assert "summary" in [step["step"] for step in request["timeline"]]


def test_repeated_question_that_a_server_spoils(running: Gateway, server: ModelServer) -> None:
    if server.name != "llama-2023":
        pytest.skip("only old servers spoil a prompt that is all cached")
    talk = Talk(running)
    first = talk.turn()
    del talk.messages[1:]
    (message,) = talk.messages
    talk.messages = []
    assert reason(talk.turn(message["content"]), "off")["slot"] == first["slot"]


def test_restarted_backend(running: Gateway, server: ModelServer) -> None:
    talk = Talk(running)
    request = talk.turn()
    server.kill()
    up(running, 0)
    server.start()
    up(running, 1)
    assert reason(talk.turn(), "restarted")["backend"] == request["backend"]


def serves(gateway: Gateway, name: str) -> bool:
    head = {"Authorization": f"Bearer {SECRETS['ann']}"}
    return name in [row["id"] for row in fetch(gateway.url, "/v1/models", None, head)[2]["data"]]


def test_backend_that_had_another_model(running: Gateway, server: ModelServer) -> None:
    talk = Talk(running)
    talk.turn()
    place = server.command.index("--alias") + 1
    for name in ("other", "one"):
        server.kill()
        up(running, 0)
        server.command[place] = name
        server.start()
        wait_until(partial(serves, running, name))
    up(running, 1)
    reason(talk.turn(), "swapped")


def test_changed_template(running: Gateway, server: ModelServer) -> None:
    if server.name == "llama-2023":
        pytest.skip("a server of 2023 has no template of its own")
    talk = Talk(running)
    talk.turn()
    server.kill()
    up(running, 0)
    server.command += ["--chat-template", TEMPLATE]
    server.start()
    up(running, 1)
    reason(talk.turn(), "template")


def test_contents_of_a_server_that_chooses_its_slots(
    start_server: StartServer, gateway: StartGateway, keys: str
) -> None:
    """The status page has each conversation in the slot that a server with a RAM cache reported."""
    server = start_server("llama-2026", slots=2, ctx=4096, extra=("--alias", "one"))
    served = gateway("--llama-api", server.url, "--api-key-file", keys, "--admins", "ann")
    up(served, 1)
    talks = [Talk(served, key) for key in KEYS]
    used = {(talk.key, talk.turn()["slot"]) for _ in range(3) for talk in talks}
    head = {"Authorization": f"Bearer {SECRETS['ann']}"}
    (backend,) = fetch(served.url, "/pages/api/status", None, head)[2]["backends"]
    path = f"/pages/api/status/slots?first=0&backend={backend['id']}"
    tenures = fetch(served.url, path, None, head)[2]["tenures"]
    assert {(tenure["key"], tenure["slot"]) for tenure in tenures} == used
    assert {tenure["why"] for tenure in tenures} <= {"", "saved"}
