"""What llama.cpp's own clients ask for besides text, on servers of both generations: progress,
timings, ids, settings, probabilities after sampling, prompts of ids and texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fakes import wait_until
from tools.processes import Gateway, ModelServer

# One token again and again: two runs say the same, in whatever batch they are.
FORCED = {"logit_bias": [["model", 100]]}
PROMPT = "the quick brown fox jumps over the lazy dog " * 12


@pytest.fixture
def url(any_server: ModelServer, module_gateway: Callable[..., Gateway]) -> str:
    return module_gateway("--llama-api", any_server.url, "--metrics").url


@pytest.fixture
def new_url(new_server: ModelServer, module_gateway: Callable[..., Gateway]) -> str:
    return module_gateway("--llama-api", new_server.url, "--metrics").url


@pytest.fixture
def old_url(old_server: ModelServer, module_gateway: Callable[..., Gateway]) -> str:
    return module_gateway("--llama-api", old_server.url, "--metrics").url


@pytest.fixture
def any_old_url(any_old_server: ModelServer, module_gateway: Callable[..., Gateway]) -> str:
    return module_gateway("--llama-api", any_old_server.url, "--metrics").url


def post(url: str, path: str, /, status: int = 200, **body: Any) -> Any:
    answer = requests.post(url + path, json=body, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.json()


def chunks(url: str, path: str, /, **body: Any) -> Iterator[dict[str, Any]]:
    answer = requests.post(url + path, json={**body, "stream": True}, timeout=60)
    assert answer.status_code == 200, answer.text
    for line in answer.content.split(b"\n"):
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def test_ids_and_texts_in_a_prompt_equal_their_parts(url: str) -> None:
    words = post(url, "/tokenize", content="once upon")["tokens"]
    fields: dict[str, Any] = {"n_predict": 1, "n_probs": 1, "temperature": 0}
    mixed = post(url, "/completion", prompt=[1, "once upon", words[0], {}][:3], **fields)
    ids = post(url, "/completion", prompt=[1, *words, words[0]], **fields)
    assert likeliest(mixed) == pytest.approx(likeliest(ids), abs=0.02)
    assert mixed["tokens_evaluated"] == ids["tokens_evaluated"] == len(words) + 2


def likeliest(answer: Any) -> float:
    """The log-probability of the likeliest first token, which tells one prompt from another. The
    token itself may not: where two are nearly as likely, rounding decides."""
    return float(answer["completion_probabilities"][0]["logprob"])


def test_prompts_of_every_form_in_one_request(url: str) -> None:
    prompts = [[1, 5], "Hi", {"prompt_string": "Hi"}, [1, "Hi"]]
    fields: dict[str, Any] = {"n_predict": 3, "n_probs": 1, "temperature": 0}
    answers = post(url, "/completion", prompt=prompts, **fields)
    assert [answer["index"] for answer in answers] == [0, 1, 2, 3]
    assert likeliest(answers[1]) == pytest.approx(likeliest(answers[2]), abs=0.02)
    refused = post(
        url,
        "/completion",
        400,
        prompt={"prompt_string": "Hi", "multimodal_data": ["iVBORw=="]},
    )
    assert "multimodal_data" in refused["error"]["message"]


def test_answer_names_the_settings_of_the_backend(url: str, made_up_model: Path) -> None:
    answer = post(
        url, "/completion", prompt="Hi", n_predict=3, top_k=7, stop=["zz"], n_probs=2, seed=5
    )
    settings = answer["generation_settings"]
    assert (settings["top_k"], settings["n_predict"], settings["n_probs"]) == (7, 3, 2)
    assert settings["stop"] == ["zz"]
    assert "typical_p" in settings, "settings not asked for are named too"
    assert answer["prompt"].endswith("Hi")
    assert str(made_up_model.parent) not in json.dumps(answer), "no path of the backend's machine"


def test_settings_are_named_when_the_gateway_stops_the_answer(url: str) -> None:
    fields: dict[str, Any] = {"prompt": "Hi", "n_predict": 20, "temperature": 0, **FORCED}
    answer = post(url, "/completion", **fields, stop=["l m"])
    assert (answer["content"].strip(), answer["stop_type"]) == ("mode", "word")
    assert answer["stopping_word"] == "l m"
    assert answer["generation_settings"]["temperature"] == 0
    assert answer["prompt"] == "Hi"


def test_verbose_adds_the_prompt_to_a_chat(url: str) -> None:
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "Book"}], "max_tokens": 2}
    answer = post(url, "/v1/chat/completions", **chat, verbose=True)
    assert "Book" in answer["__verbose"]["prompt"]
    assert answer["__verbose"]["generation_settings"]["n_predict"] == 2
    assert "__verbose" not in post(url, "/v1/chat/completions", **chat)
    *_, last = chunks(url, "/v1/chat/completions", **chat, verbose=True)
    assert "Book" in last["__verbose"]["prompt"]


def test_logit_bias_text_applies_to_each_of_its_tokens(url: str) -> None:
    fields: dict[str, Any] = {"prompt": "Hi", "n_predict": 8, "temperature": 0}
    said = post(url, "/completion", **fields, n_probs=1)["completion_probabilities"]
    first = said[0]["token"]
    for bias in ([[first, -1000]], {first: -1000}, [[first, False]]):
        answer = post(url, "/completion", **fields, n_probs=1, logit_bias=bias)
        assert answer["completion_probabilities"][0]["token"] != first


def test_post_sampling_probabilities_are_returned(url: str) -> None:
    answer = post(url, "/completion", prompt="Hi", n_predict=3, n_probs=4, post_sampling_probs=True)
    assert len(answer["completion_probabilities"]) == 3
    for token in answer["completion_probabilities"]:
        # An old server names the chosen token's only among the ten likeliest: else it is 0.
        assert 0 <= token["prob"] <= 1
        assert "logprob" not in token
        assert all(0 <= candidate["prob"] <= 1 for candidate in token["top_probs"])


def test_long_answer_with_many_probabilities_is_whole(any_old_url: str) -> None:
    """An old server repeats the probabilities of all tokens in its last event: here megabytes."""
    fields: dict[str, Any] = {"prompt": "Hi", "n_predict": 120, "ignore_eos": True, "n_probs": 250}
    answer = post(any_old_url, "/completion", **fields)
    assert (answer["stop_type"], answer["tokens_predicted"]) == ("limit", 120)
    assert answer["tokens_evaluated"] > 0


def test_metrics_have_the_names_of_llama_server(url: str) -> None:
    before = metrics_at_rest(url)
    answer = post(url, "/completion", prompt=PROMPT, n_predict=6)
    after = metrics_at_rest(url)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["llamacpp:prompt_tokens_total"] == answer["timings"]["prompt_n"]
    assert grown["llamacpp:prompt_tokens_cached_total"] == answer["timings"]["cache_n"]
    assert grown["llamacpp:tokens_predicted_total"] == 6
    assert grown["llamacpp:prompt_seconds_total"] > 0


def metrics_at_rest(url: str) -> dict[str, float]:
    """Those when no request runs: one is counted a moment after its answer."""
    wait_until(lambda: metrics(url)["llamacpp:requests_processing"] == 0)
    return metrics(url)


def metrics(url: str) -> dict[str, float]:
    answer = requests.get(f"{url}/metrics", timeout=60)
    assert answer.headers["Process-Start-Time-Unix"].isdigit()
    lines = [line for line in answer.text.splitlines() if line.startswith("llamacpp:")]
    return {name: float(value) for name, value in (line.split(" ") for line in lines)}


def test_token_pieces_of_a_text_are_returned(new_url: str) -> None:
    tokens = post(new_url, "/tokenize", content="hello world 好", with_pieces=True)["tokens"]
    assert "".join(token["piece"] for token in tokens).strip() == "hello world 好"
    assert [token["id"] for token in tokens] == post(
        new_url, "/tokenize", content="hello world 好"
    )["tokens"]


def test_new_server_returns_pieces_of_partial_characters(new_url: str) -> None:
    tokens = post(new_url, "/tokenize", content="媽", with_pieces=True)["tokens"]
    parts = [token["piece"] for token in tokens if isinstance(token["piece"], list)]
    assert bytes(byte for part in parts for byte in part).decode() == "媽"


def test_unsupported_reports_of_old_server_are_warnings(old_url: str) -> None:
    flags = {"return_progress": True, "timings_per_token": True, "return_tokens": True}
    body = {"prompt": "Hi", "n_predict": 2, **flags}
    answer = requests.post(f"{old_url}/completion", json=body, timeout=60)
    warned = answer.headers["x-slotproxy-warning"]
    assert all(name in warned for name in flags)


def test_new_server_reports_progress_timings_and_ids(new_url: str) -> None:
    flags = {"return_progress": True, "timings_per_token": True, "return_tokens": True}
    events = list(chunks(new_url, "/completion", prompt=PROMPT, n_predict=4, n_probs=2, **flags))
    progress = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    assert progress[-1]["processed"] == progress[-1]["total"] > 100
    texts = [event for event in events if event["content"]]
    assert [event["timings"]["predicted_n"] for event in texts] == [1, 2, 3, 4]
    ids = [number for event in texts for number in event["tokens"]]
    named = [event["completion_probabilities"][0]["id"] for event in texts]
    assert ids == named
    assert len(ids) == 4
    whole = post(new_url, "/completion", prompt=PROMPT, n_predict=4, return_tokens=True)
    assert len(whole["tokens"]) == 4


def test_chats_and_responses_report_progress_and_timings(new_url: str) -> None:
    flags = {"return_progress": True, "timings_per_token": True}
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4}
    events = list(chunks(new_url, "/v1/chat/completions", **chat, **flags))
    assert "timings" not in events[0]
    assert [event for event in events if "prompt_progress" in event]
    texts = [event for event in events if event["choices"][0]["delta"].get("content")]
    assert [event for event in texts if "timings" in event]
    answer = {"input": "again: " + PROMPT, "max_output_tokens": 4}
    events = list(chunks(new_url, "/v1/responses", **answer, **flags))
    kinds = {event["type"] for event in events if "prompt_progress" in event}
    assert kinds == {"response.in_progress"}
    assert {event["type"] for event in events if "predicted_n" in event.get("timings", {})} >= {
        "response.output_text.delta",
        "response.incomplete",
    }


def test_old_server_defaults_are_not_those_of_the_last_request(old_url: str) -> None:
    post(old_url, "/completion", prompt="Hi", n_predict=1, grammar='root ::= "secret"')
    assert "secret" not in requests.get(f"{old_url}/props", timeout=60).text


def test_completions_without_v1_serve_both_kinds_of_clients(url: str) -> None:
    fields: dict[str, Any] = {"prompt": "Hi", "n_predict": 4, "temperature": 0, **FORCED}
    native = post(url, "/completion", **fields)
    both = post(url, "/completions", **fields)
    assert both["content"] == both["choices"][0]["text"] == native["content"]
    assert native.keys() - {"multimodal"} <= both.keys()
    events = list(chunks(url, "/completions", **fields))
    assert "".join(event["content"] for event in events) == native["content"]
    assert "".join(event["choices"][0]["text"] for event in events) == native["content"]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["stop_type"] == "limit"
