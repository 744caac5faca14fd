"""Templates that backends tell."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from proxy.app import prompter_registry
from proxy.app.prompter_registry import Prompters
from proxy.backends.driver import Capabilities
from proxy.config import Settings
from proxy.core.request import CompletionRequest, Message
from tests.fakes import ScriptedDriver, make_app, services_of


def rendered(caps: Capabilities, **settings: Any) -> str:
    registry = services_of(make_app(ScriptedDriver(caps=caps))).gateway.registry
    prompter = Prompters(Settings(**settings), registry, Path("templates/chat"))(
        registry.models()[0]
    )
    request = CompletionRequest(messages=(Message(role="user", content="Hi"),))
    text = prompter.render(request, datetime(2026, 1, 1)).text
    registry.close()
    return text


@pytest.mark.parametrize(
    ("caps", "settings", "begins"),
    [
        ({"models": ("SmolLM2-135M",)}, {}, "<|im_start|>user\nHi<|im_end|>"),
        ({"models": ("SmolLM2-135M",)}, {"chat_template": "legacy"}, "A chat between"),
        ({"models": ("SmolLM2-135M",)}, {"chat_template": "gemma"}, "<start_of_turn>user\nHi"),
        ({"models": ("mystery",)}, {}, "A chat between"),
        ({"models": ("SmolLM2-135M",), "template": "{{ messages[0].content }}"}, {}, "Hi"),
        ({"models": ("SmolLM2-135M",), "template": "{% if %}"}, {}, "A chat between"),
    ],
)
def test_model_without_a_template_gets_that_of_its_name(
    caps: dict[str, Any], settings: dict[str, Any], begins: str
) -> None:
    text = rendered(Capabilities(dialect="2023", **caps), **settings)
    assert text.startswith(begins), text


def test_number_of_cached_templates_is_bounded() -> None:
    """A backend may tell another one at every look."""
    registry = services_of(make_app(ScriptedDriver())).gateway.registry
    made = Prompters(Settings(), registry, Path("templates"))
    for number in range(prompter_registry.MAX_KEPT + 3):
        made._make("m", f"{{{{ messages }}}} {number}", "", "", "", True)
        assert len(made._found) == min(number + 1, prompter_registry.MAX_KEPT)
    registry.close()
