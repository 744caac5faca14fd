"""Where the lines of late binding stand in the prompts of each template, with Home Assistant's
conversations: what precedes them is the same in each minute and each room."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from proxy.apis.openai.chat import parse
from proxy.core.late_binding import late_bound
from proxy.prompting.prompt import Prompter
from proxy.prompting.template.templates import compile
from tests.home_assistant import CHANGING, recorded

TEMPLATES = sorted((Path(__file__).resolve().parents[3] / "templates" / "chat").glob("*.jinja"))
NOW = datetime(2026, 11, 26)
# They write all system messages before the tools.
TOOLS_LAST = {"chatglm3", "deepseek", "glm-4"}


def changed(prompt: str, other: str) -> float:
    """The share of a prompt behind its first difference from another."""
    differs = next(n for n, (a, b) in enumerate(zip(prompt, other, strict=False)) if a != b)
    return 1 - differs / len(prompt)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_devices_and_tools_precede_the_lines_that_change(path: Path) -> None:
    prompter = Prompter(compile(path.read_text("utf-8"), path.stem))
    conversations = [parse(bodies[0]) for bodies in recorded(2)]
    today, late = (
        [prompter.render(request, NOW).text for request in requests]
        for requests in (
            conversations,
            [late_bound(request, CHANGING, apart=True) for request in conversations],
        )
    )
    assert changed(*today) > 0.5
    assert changed(*late) < (0.45 if path.stem in TOOLS_LAST else 0.1)
    for line in conversations[0].messages[0].content.split("\n"):
        assert line in late[0]
    assert late[0].count("Now:\nCurrent time is 07:00:00") == 1
