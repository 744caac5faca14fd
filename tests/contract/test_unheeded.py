"""Ignored fields that would change an answer are reported, in every dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from proxy.core.request import CompletionRequest
from proxy.dialects import anthropic, llamacpp_native, openai_chat, openai_completions, responses

SAID = {"messages": [{"role": "user", "content": "U"}], "max_tokens": 9}


def _responses(body: Any) -> CompletionRequest:
    return responses.parse(body).request


@pytest.mark.parametrize(
    ("parse", "body", "more"),
    [
        (openai_chat.parse, SAID, {"verbosity": "low"}),
        (openai_chat.parse, SAID, {"web_search_options": {"search_context_size": "low"}}),
        (openai_chat.parse, SAID, {"web_search_options": {"search_context_size": "low"}}),
        (openai_completions.parse, {"prompt": "p"}, {"lora": [{"id": 0, "scale": 1}]}),
        (llamacpp_native.parse, {"prompt": "p"}, {"system_prompt": {"prompt": "x"}}),
        (anthropic.parse, SAID, {"container": "c"}),
        (anthropic.parse, SAID, {"context_management": {"edits": [{"type": "clear"}]}}),
        (_responses, {"input": "U"}, {"text": {"verbosity": "high"}}),
        (_responses, {"input": "U"}, {"context_management": [{"type": "compaction"}]}),
    ],
)
def test_unsupported_fields_are_reported(
    parse: Callable[[Any], CompletionRequest], body: dict[str, Any], more: dict[str, Any]
) -> None:
    assert parse(body).warnings == ()
    (told,) = parse({**body, **more}).warnings
    assert told.endswith((" is ignored", " are ignored"))
    idle = dict.fromkeys(more)
    assert parse({**body, **idle}).warnings == ()


def test_fields_without_effect_are_not_reported() -> None:
    """Fields that clients send by default, with their usual values."""
    quiet = {
        "store": False,
        "verbosity": "medium",
        "web_search_options": {},
        "service_tier": "auto",
        "metadata": {"a": "b"},
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "modalities": ["text"],
        "prediction": None,
        "top_logprobs": 0,
        "logprobs": False,
    }
    assert openai_chat.parse({**SAID, **quiet}).warnings == ()
