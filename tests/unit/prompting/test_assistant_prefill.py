"""An answer that the client has begun is continued."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.core.request import (
    CompletionRequest,
    Message,
    OutputFormat,
    Tool,
    ToolCall,
    ToolChoice,
)
from proxy.prompting.prompt import LegacyFormat, Prompter
from proxy.prompting.template.templates import compile

TEMPLATES = Path(__file__).parents[3] / "templates" / "chat"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ASKED = Message(role="user", content="Name a colour.")
BEGUN = Message(role="assistant", content="A colour is ")


def rendered(form: Prompter, *messages: Message) -> str:
    return form.render(CompletionRequest(messages=messages), NOW).text


def template(name: str) -> Prompter:
    return Prompter(compile((TEMPLATES / f"{name}.jinja").read_text("utf-8"), name))


@pytest.mark.parametrize("name", sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
def test_prefill_in_every_family(name: str) -> None:
    form = template(name)
    opened = rendered(form, ASKED)
    text = rendered(form, ASKED, BEGUN)
    assert text.startswith(opened) and text.endswith("A colour is ")
    assert len(text) - len(opened) - len(BEGUN.content) < 30  # the end of thoughts at most


def test_prefill_follows_opened_thoughts_of_the_template() -> None:
    form = Prompter(compile("{{ messages[0].content + '<think>\n' }}", "thinker"))
    prompt = form.render(CompletionRequest(messages=(ASKED, BEGUN)), NOW)
    assert prompt.text == "Name a colour.<think>\n\n</think>\n\nA colour is "
    assert not prompt.thinks


def test_prefill_in_the_reference_scripts_format() -> None:
    assert rendered(Prompter(LegacyFormat()), ASKED, BEGUN).endswith("\nASSISTANT: A colour is ")


@pytest.mark.parametrize(
    "request_",
    [
        CompletionRequest(messages=(ASKED, BEGUN), output=OutputFormat("json_object")),
        CompletionRequest(
            messages=(ASKED, BEGUN), tools=(Tool("paint"),), tool_choice=ToolChoice("required")
        ),
        CompletionRequest(
            messages=(
                ASKED,
                Message(role="assistant", content="x", tool_calls=(ToolCall("1", "f", "{}"),)),
            )
        ),
        CompletionRequest(messages=(BEGUN,)),
    ],
)
def test_constrained_or_native_answer_starts_anew(request_: CompletionRequest) -> None:
    assert template("chatml").render(request_, NOW).text.endswith("<|im_start|>assistant\n")


def test_model_does_not_think_behind_an_empty_block_of_thoughts() -> None:
    """A call that is required is then bound from the first token."""
    asked = CompletionRequest(messages=(ASKED,))
    off = CompletionRequest(messages=(ASKED,), reasoning_effort="none")
    form = template("qwen")
    assert form.render(asked, NOW).thinks
    prompt = form.render(off, NOW)
    assert prompt.text.rstrip().endswith("</think>")
    assert not prompt.thinks
