"""Conversations whose cache outlives the server of their model, and the gateway."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import thorough
from tests.fakes import gone, key_file, wait_until
from tests.integration.child_processes import children
from tools import made_up_model as made_up
from tools import servers
from tools.processes import Gateway

from .conftest import StartGateway

pytestmark = pytest.mark.slow
Start = Callable[..., Gateway]
Messages = list[dict[str, str]]


@pytest.fixture
def start(gateway: StartGateway, tmp_path: Path) -> Start:
    """Factory for gateways that serve the model `m`, one after the other."""
    binary = servers.find("llama-2026")
    if binary is None or thorough.FEW:
        pytest.skip("llama-2026 is not built, or make test-all runs it")
    (tmp_path / "models").mkdir()
    made_up.write(tmp_path / "models" / "m.gguf", n_ctx=8192)

    def gateways(*flags: str, words: str = "") -> Gateway:
        server = f"{binary} -np 2 -c 16384 -t 1 {words}"
        models = ("--models-dir", str(tmp_path / "models"), "--llama-server", server)
        data = ("--data", str(tmp_path / "data"), "--chat-template", "legacy")
        return gateway(*models, *data, *flags)

    return gateways


def conversation(seed: int = 1, numbers: int = 430) -> Messages:
    """A conversation of 3 000 tokens."""
    chooses = random.Random(seed)
    text = " ".join(str(chooses.randrange(10**6)) for _ in range(numbers))
    return [{"role": "user", "content": text}]


def turn(gateway: Gateway, messages: Messages, key: str = "") -> float:
    """Take a turn, and add it to the messages. Returns the part of its tokens that is evaluated."""
    body = {"model": "m", "messages": messages, "max_tokens": 8}
    head = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"{gateway.url}/v1/chat/completions"
    answer = httpx.post(url, json=body, headers=head, timeout=60.0)
    assert answer.status_code == 200, answer.text
    said = answer.json()["choices"][0]["message"]["content"]
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "Go on."}]
    usage = answer.json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return float((usage["prompt_tokens"] - cached) / usage["prompt_tokens"])


def unload(gateway: Gateway, **head: Any) -> None:
    before = gateway.log.count(": stopping")
    httpx.post(f"{gateway.url}/models/unload", json={"model": "m"}, **head).raise_for_status()
    wait_until(lambda: gateway.log.count(": stopping") > before)


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "data" / "slots").glob("slotproxy-*.bin"))


def kill(gateway: Gateway) -> None:
    """Kill a gateway, its worker first, as the kernel does when memory is short."""
    for child in (*children(gateway.pid), gateway.pid):
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: gone(gateway.pid))


def test_conversations_outlive_server_and_gateway(start: Start, tmp_path: Path) -> None:
    gateway = start()
    talks = conversation(1), conversation(2), conversation(3)  # one more than there are slots
    assert [turn(gateway, talk) > 0.9 for talk in talks] == [True] * 3
    unload(gateway)
    assert [turn(gateway, talk) < 0.05 for talk in talks] == [True] * 3
    gateway.stop()
    assert len(files(tmp_path)) == 3
    assert {path.stat().st_mode & 0o777 for path in files(tmp_path)} == {0o600}
    assert files(tmp_path)[0].parent.stat().st_mode & 0o777 == 0o700
    two = start()
    assert [turn(two, talk) < 0.05 for talk in talks] == [True] * 3
    kill(two)  # the last save is still there
    assert [turn(start(), talks[0]) < 0.1] == [True]


def test_server_with_its_ram_cache_keeps_what_its_slots_hold(start: Start, tmp_path: Path) -> None:
    gateway = start(words="--cache-ram 100")
    talk = conversation()
    assert turn(gateway, talk) > 0.9
    unload(gateway)
    assert turn(gateway, talk) < 0.05


def test_changed_file_is_evaluated_again(start: Start, tmp_path: Path) -> None:
    gateway = start()
    talk = conversation()
    turn(gateway, talk)
    unload(gateway)
    (file,) = files(tmp_path)
    os.truncate(file, 100_000)  # a llama-server crashes when it reads this
    assert turn(gateway, talk) > 0.9
    assert "signal" not in gateway.log
    unload(gateway)
    gateway.stop()
    os.truncate(files(tmp_path)[0], 100_000)
    two = start()
    assert turn(two, talk) > 0.9
    two.stop()
    three = start(words="--cache-type-k f32")  # files of another server are not read
    assert turn(three, talk) > 0.9


def test_files_of_a_key_are_not_for_others(start: Start, tmp_path: Path) -> None:
    keys = key_file(tmp_path, "alice key-of-alice\nbob key-of-bob\n")
    flags = ("--api-key-file", keys, "--admins", "alice")
    alice, bob = conversation(), conversation()
    gateway = start(*flags)
    assert turn(gateway, alice, "key-of-alice") > 0.9
    bob += alice[1:]
    unload(gateway, headers={"Authorization": "Bearer key-of-alice"})
    assert turn(gateway, bob, "key-of-bob") == 1.0
    assert turn(gateway, alice, "key-of-alice") < 0.05
    assert turn(gateway, bob, "key-of-bob") < 0.05


def test_files_stay_within_the_bound(start: Start, tmp_path: Path) -> None:
    gateway = start("--slot-disk", str(2_500_000))
    for seed in range(3):
        turn(gateway, conversation(seed))
    unload(gateway)
    assert 0 < sum(path.stat().st_size for path in files(tmp_path)) <= 2_500_000
    gateway.stop()
    assert start("--slot-disk", "0").is_ready()


def test_server_of_2023_has_no_slots_to_save(
    gateway: StartGateway, tmp_path: Path, made_up_model: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.gguf").symlink_to(made_up_model)
    server = f"env -C {tmp_path} {servers.find('llama-2023')} -np 2 -c 4096 -t 1 -cb"
    models = ("--models-dir", str(tmp_path / "models"), "--llama-server", server)
    running = gateway(*models, "--data", str(tmp_path / "data"), "--chat-template", "legacy")
    talk = conversation(numbers=100)
    turn(running, talk)
    unload(running)
    assert turn(running, talk) > 0.9  # the probe leaves a token or two
    assert "has no --slot-save-path, so its cached prompts are lost" in running.log
