"""`--sampling`: defaults for sampler fields that a request does not set."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes import ScriptedDriver, client

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello!"}]}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/messages"])
def test_sampling_defaults_apply_to_every_api(path: str) -> None:
    driver = ScriptedDriver()
    web = client(driver, sampling=("temperature=0.2", "repeat_penalty=1"))
    answer = web.post(path, json={**HELLO, "model": "m", "max_tokens": 9, "stream": False})
    assert answer.status_code == 200, answer.text
    sampling = driver.tasks[0].sampling
    assert (sampling["temperature"], sampling["repeat_penalty"]) == (0.2, 1)


def test_request_fields_override_sampling_defaults() -> None:
    driver = ScriptedDriver()
    web = client(driver, sampling=("temperature=0.2", "top_p=0.9"))
    web.post("/v1/chat/completions", json={**HELLO, "temperature": 1.5})
    assert driver.tasks[0].sampling == {"temperature": 1.5, "top_p": 0.9}
