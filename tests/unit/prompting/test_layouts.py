"""Prompt templates of the dialogues: what stands where."""

from __future__ import annotations

import pytest

from proxy import resources
from proxy.core.invalid import Invalid
from proxy.core.request import Message, Tool
from proxy.prompting.layouts import Layouts
from proxy.prompting.templates import TemplateError

ASKED = (Message("user", "a"), Message("assistant", "b"), Message("user", "why?"))
SHIPPED = Layouts(resources.dialogues())


def test_instructions_and_documents_come_first_and_the_question_last() -> None:
    layouts = Layouts({"kb": {"default": "Use this:\n{{ context }}\n"}})
    first = layouts.lay("kb", "default", ASKED[:1], "[1] one")
    second = layouts.lay("kb", "default", ASKED, "[1] one")
    assert first[0] == Message("system", "Use this:\n[1] one")
    assert second[: len(first)] == first, "the second turn begins as the first one did"
    assert second[-1] == ASKED[-1]


def test_a_template_that_speaks_of_the_question_stands_in_its_place() -> None:
    layouts = Layouts({"kb": {"old": "<a>{{ context }}</a>\n<q>{{ question }}</q>\n"}})
    made = layouts.lay("kb", "old", ASKED, "x {{ question }}")
    assert made == (*ASKED[:2], Message("user", "<a>x {{ question }}</a>\n<q>why?</q>"))


def test_the_clients_own_system_message_stays() -> None:
    layouts = Layouts({"kb": {"default": "Use this."}})
    made = layouts.lay("kb", "default", (Message("system", "Be brief."), *ASKED))
    assert made == (Message("system", "Use this.\n\nBe brief."), *ASKED)


def test_the_plain_chat_changes_nothing() -> None:
    assert SHIPPED.lay("llm_chat", "default", ASKED) == ASKED


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
def test_what_is_shipped_renders(folder: str, names: tuple[str, ...]) -> None:
    assert SHIPPED.names(folder) == names
    for name in names:
        made = SHIPPED.lay(folder, name, ASKED, "SOURCES", (Tool("clock", "tells the time"),))
        assert made[-1] == ASKED[-1]
        holds = any("SOURCES" in message.content for message in made)
        assert holds == (
            folder in ("knowledge_base_chat", "search_engine_chat") and name != "empty"
        )


def test_a_name_that_is_none_is_told_with_those_there_are() -> None:
    with pytest.raises(Invalid, match="templates of llm_chat: default, py, with_history"):
        SHIPPED.lay("llm_chat", "../../etc/passwd", ASKED)


def test_a_template_that_fails_or_reaches_out_is_an_error_of_its_own() -> None:
    layouts = Layouts({"kb": {"out": "{{ context.__class__.__mro__ }}", "x": "{{ 1 // 0 }}"}})
    for name in ("out", "x"):
        with pytest.raises(Invalid, match="prompt_name names a template that fails"):
            layouts.lay("kb", name, ASKED)
    with pytest.raises(TemplateError, match="kb/broken"):
        Layouts({"kb": {"broken": "{% if %}"}})
