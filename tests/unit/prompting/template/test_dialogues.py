"""Prompt templates of the dialogues: the order of their parts."""

from __future__ import annotations

import pytest

from proxy.core.request import Message, Tool
from proxy.errors import InvalidParameter
from proxy.prompting.template import TemplateError
from proxy.prompting.template.dialogues import Layouts
from proxy.runtime import installation

ASKED = (
    Message(role="user", content="a"),
    Message(role="assistant", content="b"),
    Message(role="user", content="why?"),
)
SHIPPED = Layouts(installation.dialogues())


def test_prompt_has_instructions_and_documents_first_and_question_last() -> None:
    layouts = Layouts({"kb": {"default": "Use this:\n{{ context }}\n"}})
    first = layouts.render("kb", "default", ASKED[:1], "[1] one")
    second = layouts.render("kb", "default", ASKED, "[1] one")
    assert first[0] == Message(role="system", content="Use this:\n[1] one", cites=True)
    assert second[: len(first)] == first, "the second turn begins as the first one did"
    assert second[-1] == ASKED[-1]


def test_template_containing_the_question_replaces_it() -> None:
    layouts = Layouts({"kb": {"old": "<a>{{ context }}</a>\n<q>{{ question }}</q>\n"}})
    made = layouts.render("kb", "old", ASKED, "x {{ question }}")
    assert made == (
        *ASKED[:2],
        Message(role="user", content="<a>x {{ question }}</a>\n<q>why?</q>", cites=True),
    )


def test_client_system_message_is_kept() -> None:
    layouts = Layouts({"kb": {"default": "Use this."}})
    made = layouts.render("kb", "default", (Message(role="system", content="Be brief."), *ASKED))
    assert made == (Message(role="system", content="Use this.\n\nBe brief."), *ASKED)


def test_plain_chat_template_changes_nothing() -> None:
    assert SHIPPED.render("llm_chat", "default", ASKED) == ASKED


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("llm_chat", ("default", "py", "with_history")),
        ("knowledge_base_chat", ("default", "empty", "text")),
        ("search_engine_chat", ("default", "search")),
        ("agent_chat", ("default", "ChatGLM3")),
        ("completion", ("default",)),
    ],
)
def test_bundled_dialogue_templates_render(folder: str, names: tuple[str, ...]) -> None:
    assert SHIPPED.names(folder) == names
    for name in names:
        made = SHIPPED.render(folder, name, ASKED, "SOURCES", (Tool("clock", "tells the time"),))
        assert made[-1] == ASKED[-1]
        holds = any("SOURCES" in message.content for message in made)
        assert holds == (
            folder in ("knowledge_base_chat", "search_engine_chat") and name != "empty"
        )


def test_unknown_template_error_lists_known_names() -> None:
    with pytest.raises(
        InvalidParameter, match="not a template of llm_chat; available: default, py, with_history"
    ):
        SHIPPED.render("llm_chat", "../../etc/passwd", ASKED)


def test_failing_or_unsafe_template_raises_its_own_error() -> None:
    layouts = Layouts({"kb": {"out": "{{ context.__class__.__mro__ }}", "x": "{{ 1 // 0 }}"}})
    for name in ("out", "x"):
        with pytest.raises(InvalidParameter, match="prompt_name names a template that failed"):
            layouts.render("kb", name, ASKED)
    with pytest.raises(TemplateError, match="kb/broken"):
        Layouts({"kb": {"broken": "{% if %}"}})
