"""Lines that the operator names are moved to the end of the system message, and nothing else is."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import late_binding
from proxy.core.late_binding import late_bound, rule
from proxy.core.request import CompletionRequest, Media, Message

CLOCK = "The current time is 20:37:19."
ROOM = "You are in area Kitchen (floor Ground) and all commands target this area."
RULES = ("The current time is", "You are in area")


def system(content: str, **more: object) -> Message:
    return Message(role="system", content=content, **more)  # type: ignore[arg-type]  # of the test


USER = Message(role="user", content=f"{CLOCK}\nIs the light on?")


def moved(*messages: Message, rules: tuple[str, ...] = RULES, apart: bool = False) -> list[Message]:
    request = CompletionRequest(messages=messages)
    return list(late_bound(request, rules, apart=apart).messages)


def test_lines_are_moved_and_declared() -> None:
    head = system(f"Be brief.\n{CLOCK}\n{ROOM}\n- names: Lamp\n  domain: light\n")
    expected = f"Be brief.\n- names: Lamp\n  domain: light\n\nNow:\n{CLOCK}\n{ROOM}"
    assert moved(head, USER) == [system(expected), USER]


def test_answer_says_what_was_moved() -> None:
    request = CompletionRequest(messages=(system(f"{CLOCK}\nBe brief."), USER), warnings=("w",))
    bound, (first, second) = late_bound(request, RULES, apart=True), ("w", "late_binding: moved")
    assert bound.warnings[0] == first and bound.warnings[1].startswith(second)
    assert bound.warnings[1].endswith("1 line") and "20:37" not in bound.warnings[1]


def test_own_message_behind_all_that_begin_the_conversation() -> None:
    later = system(f"{CLOCK}\nSpeak French.")
    answered = moved(system(f"{CLOCK}\nBe brief."), system("Lamps:"), USER, later, apart=True)
    assert answered == [
        system("Be brief."), system("Lamps:"), system(f"Now:\n{CLOCK}"), USER, later
    ]  # fmt: skip


def test_message_of_moved_lines_alone_is_left_out() -> None:
    assert moved(system(CLOCK), system("Be brief."), USER) == [
        system(f"Be brief.\nNow:\n{CLOCK}"), USER
    ]  # fmt: skip


@pytest.mark.parametrize(
    "messages",
    [
        (USER,),
        (system("Be brief."), USER),
        (system(f"Be brief.\n{CLOCK}"), USER),  # nothing follows
        (system(f"Be brief.\n{CLOCK}\n\n"), USER),
        (system(CLOCK), USER),
        (system(f"At noon: {CLOCK}\nBe brief."), USER),  # it does not begin the line
        (system(f"the current time is 9.\n {CLOCK}\nBe brief."), USER),
        (system(f"{CLOCK}\nSee:", media=(Media(kind="image", at=5),)), USER),
        (USER, system(f"{CLOCK}\nBe brief."), USER),
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_everything_else_stays_as_it_is(messages: tuple[Message, ...], apart: bool) -> None:
    request = CompletionRequest(messages=messages)
    assert late_bound(request, RULES, apart=apart) is request


@pytest.mark.parametrize("apart", [False, True])
def test_again_it_changes_nothing(apart: bool) -> None:
    once = late_bound(
        CompletionRequest(messages=(system(f"{CLOCK}\nBe brief.\n{ROOM}"), USER)),
        RULES,
        apart=apart,
    )
    assert once.messages[-2].content.endswith(f"Now:\n{CLOCK}\n{ROOM}")
    assert late_bound(once, RULES, apart=apart) is once


def test_star_stands_for_any_text() -> None:
    head = system(f"{CLOCK}\nThe time is money.\nBe brief.")
    for star in ("The*time*is*:", "The*current", "*20:*:19"):
        assert moved(head, rules=(star,))[0].content.endswith(f"Now:\n{CLOCK}"), star
    for other in ("The*time*never", "The.current", "The*19:*20:"):
        assert moved(head, rules=(other,)) == [head], other


@pytest.mark.parametrize("wrong", ["", " ", "*", "* *", "a\nb", "x" * 201, "a\x00"])
def test_wrong_rules_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="beginning of a line"):
        rule(wrong)


def test_texts_of_a_client_stay_apart() -> None:
    texts = ("Be brief.", CLOCK, "Lamps:", f"{ROOM}\n- names: Lamp")
    content, parts = "", []
    for text in texts:
        content += "\n" if content else ""
        parts.append(len(content))
        content += text
    head = moved(system(content, parts=tuple(parts)), USER)[0]
    assert head.pieces == ["Be brief.", "Lamps:", "- names: Lamp", f"Now:\n{CLOCK}\n{ROOM}"]
    assert moved(system(content, parts=tuple(parts)), USER, apart=True)[0].pieces == [
        "Be brief.", "Lamps:", "- names: Lamp"
    ]  # fmt: skip


@given(st.lists(st.sampled_from([CLOCK, ROOM, "", "Be brief.", " - x", "Now:"])), st.booleans())
def test_no_line_is_lost_or_made_up(lines: list[str], apart: bool) -> None:
    before = system("\n".join(lines))
    after = moved(before, USER, apart=apart)
    out = "\n".join(message.content for message in after[:-1]).split("\n")
    assert after[-1] == USER and moved(*after, apart=apart) == after
    assert sorted(filter(None, out)) == sorted(
        [*filter(None, lines), *["Now:"] * (after[:-1] != [before])]
    )
    staying = [line for line in lines if line and not line.startswith(RULES)]
    rest = [line for line in out if line and not line.startswith(RULES)]
    assert rest == staying or rest == [*staying, "Now:"]


def test_hostile_text_takes_no_time() -> None:
    rules = tuple(rule("a" + "*a" * 60 + "*b") for _ in range(late_binding.MOST))
    rules = tuple(f"{text}{n}" for n, text in enumerate(rules))
    for text in ("a" * 200_000, "a\n" * 100_000, "\n" * 200_000):
        began = time.thread_time()
        assert moved(system(text), USER, rules=rules) == [system(text), USER]
        assert time.thread_time() - began < 2
    began = time.thread_time()
    lines = "b\n" * 100_000
    assert len(moved(system(lines + "a" * 4_000_000), rules=("b",))[0].content) > 4_100_000
    assert time.thread_time() - began < 2
