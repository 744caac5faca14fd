"""Several workers whose models another slotproxy starts."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.redis_servers import RedisServer
from tools import made_up_model as made_up
from tools import servers

from .conftest import StartGateway

pytestmark = pytest.mark.slow
COUNT = 60


@pytest.mark.parametrize("redis_server", [""], indirect=True)
def test_two_workers_share_the_models_of_one_that_starts_them(
    gateway: StartGateway, redis_server: RedisServer, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for seed, name in enumerate("abc"):
        made_up.write(models / f"{name}.gguf", seed=seed)
    server = f"{servers.find('llama-2023')} -np 2 -c 4096 -t 1 -cb"
    flags = ("--models-dir", str(models), "--llama-server", server, "--chat-template", "legacy")
    starts = gateway(*flags, "--data", str(tmp_path / "one"))
    file = tmp_path / "front.toml"
    file.write_text(f'[[backend]]\nurl = "{starts.url}/v1"\nkind = "openai"\n')
    shared = ("--workers", "2", "--state", redis_server.url, "--data", str(tmp_path / "two"))
    front = gateway("--config", str(file), *shared)
    chooses = random.Random(1)
    names = [chooses.choice("abc") for _ in range(COUNT)]

    def ask(name: str) -> tuple[int, str]:
        messages = [{"role": "user", "content": "Hello"}]
        body = {"model": name, "messages": messages, "max_tokens": 4}
        answer = httpx.post(f"{front.url}/v1/chat/completions", json=body, timeout=60.0)
        return answer.status_code, answer.json().get("model")

    with ThreadPoolExecutor(6) as pool:
        answered = Counter(pool.map(ask, names))
    assert answered == {(200, name): count for name, count in Counter(names).items()}
    assert starts.log.count(": loaded after") == 3
