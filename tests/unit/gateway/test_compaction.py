"""Conversations that do not fit: their oldest turns are summed up, once, if that is wanted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import BackendConfig
from proxy.core.conversation import ASK, LEAD, cuts, with_summary
from proxy.core.events import Compacted, Event, Failed, Finished
from proxy.core.fold import fold
from proxy.core.request import Compaction, CompletionRequest, Message, Tool, ToolCall
from proxy.core.usage import Usage
from proxy.errors import Cancelled, ContextExceeded, GatewayError, Unsupported, UpstreamFault
from proxy.gateway import Caller, Gateway
from proxy.gateway import compaction as compaction_module
from proxy.runtime.cancel import Cancel
from tests.fakes import ScriptedDriver, ScriptsInTurn, say, wait_until

Serve = Callable[..., Gateway]
HEAD = Message(role="system", content="Be brief.")


def turns(count: int, size: int = 150) -> tuple[Message, ...]:
    """Turns of the user and the model, each different, and a question at the end."""
    said = [
        Message(role=("user", "assistant")[i % 2], content=f"<{i}> ".ljust(size, "x"))
        for i in range(2 * count)
    ]
    return (HEAD, *said, Message(role="user", content="<last> And now?"))


def asked(messages: tuple[Message, ...], **more: object) -> CompletionRequest:
    return CompletionRequest(messages=messages, max_tokens=50, **more)  # type: ignore[arg-type]


def answer(
    gateway: Gateway, request: CompletionRequest, caller: Caller | None = None
) -> tuple[list[Event], int]:
    """The events of an answer, and the number of messages in its header."""
    one = gateway.answer(request, Cancel(), caller or Caller())
    events = [event for _, batch in one for event in batch]
    one.close()
    return events, one.info.compacted


def is_refused(events: list[Event]) -> bool:
    (failed,) = events
    return isinstance(failed, Failed) and isinstance(failed.error, ContextExceeded)


def compacted(events: list[Event]) -> Compacted:
    (found,) = (event for event in events if isinstance(event, Compacted))
    return found


def prompts(driver: ScriptedDriver) -> list[str]:
    return [str(task.prompt) for task in driver.tasks]


def test_oldest_turns_become_one_message(serve: Serve) -> None:
    driver = ScriptsInTurn(say("They said x.", usage=Usage(900, 5, 800)))
    gateway = serve(driver, on_overflow="compact")
    events, told = answer(gateway, asked(turns(8)))
    found = compacted(events)
    assert found.summary == "They said x." and found.messages == told
    assert found.usage == Usage(900, 5, 800), "what the summary cost"
    summary, whole = prompts(driver)
    assert ASK in summary and "<0>" in summary and "<last>" not in summary
    assert LEAD + "They said x." in whole and ASK not in whole and "<last>" in whole
    first = int(whole.partition("<")[2].partition(">")[0])
    assert first == told and f"<{told - 1}>" in summary, "each turn is in one of both"
    assert len(whole) < 2048 * 0.8, "there is room for more turns"
    finished = events[-1]
    assert isinstance(finished, Finished) and finished.usage == Usage(7, 3, 2)


def test_head_of_the_prompt_is_unchanged(serve: Serve) -> None:
    driver = ScriptsInTurn(say("They said x."))
    gateway = serve(driver, on_overflow="compact")
    tools = (Tool("weather", "Tells the weather", {"type": "object"}),)
    answer(gateway, asked(turns(3), tools=tools))
    driver.scripts = [say("They said x.")]
    answer(gateway, asked(turns(7), tools=tools))
    short, summary, whole = prompts(driver)
    head = short.index("<0>")
    assert "weather" in short[:head]
    assert short[:head] == summary[:head] == whole[:head]
    assert summary.startswith(short[: short.index("<5>")]), "the cached prompt is continued"


def test_next_turn_has_the_same_summary(serve: Serve) -> None:
    driver = ScriptsInTurn(say("They said x."))
    gateway = serve(driver, on_overflow="compact")
    first, _ = answer(gateway, asked(turns(8)))
    more = (
        *turns(8),
        Message(role="assistant", content="Hello"),
        Message(role="user", content="?"),
    )
    second, told = answer(gateway, asked(more))
    assert compacted(second).usage == Usage(), "nothing was written"
    assert compacted(second).summary == compacted(first).summary and told
    _, before, after = prompts(driver)
    assert after.startswith(before[: before.index("<last> And now?")])


def test_longer_conversation_sums_up_its_summary(serve: Serve) -> None:
    driver = ScriptsInTurn(say("First."), say("Hello"), say("Second."))
    gateway = serve(driver, on_overflow="compact")
    answer(gateway, asked(turns(7)))
    _, told = answer(gateway, asked(turns(13)))
    again, whole = prompts(driver)[2:]
    assert LEAD + "First." in again and "<0>" not in again
    assert LEAD + "Second." in whole and "First." not in whole and told > 14


def test_conversation_of_several_contexts_is_summed_up_in_parts(serve: Serve) -> None:
    driver = ScriptsInTurn(*(say(f"Part {i}.") for i in range(4)))
    gateway = serve(driver, on_overflow="compact")
    events, _ = answer(gateway, asked(turns(20)))
    *parts, whole = prompts(driver)
    assert len(parts) > 2 and all(len(one) <= 2048 for one in parts)
    for i, (before, after) in enumerate(pairwise(parts)):
        assert f"{LEAD}Part {i}." in after and before != after
    assert isinstance(events[-1], Finished) and f"Part {len(parts) - 1}." in whole
    assert compacted(events).usage == Usage(7 * len(parts), 3 * len(parts), 2 * len(parts))


@pytest.mark.parametrize(
    ("setting", "caller", "wish", "compacts"),
    [
        ("refuse", "", None, False),
        ("compact", "", None, True),
        ("compact", "refuse", None, False),
        ("refuse", "compact", None, True),
        ("refuse", "refuse", Compaction(10_000), True),
    ],
)
def test_who_says_what_happens(
    serve: Serve, setting: str, caller: str, wish: Compaction | None, compacts: bool
) -> None:
    gateway = serve(ScriptedDriver(say("Sum")), on_overflow=setting)
    request = asked(turns(8), compaction=wish)
    events, told = answer(gateway, request, Caller(on_overflow=caller))
    assert bool(told) == compacts
    assert compacts or is_refused(events)


def test_backend_overrides_the_setting(serve: Serve) -> None:
    gateway = serve(ScriptedDriver(say("Sum")), on_overflow="compact")
    for backend in gateway.registry.backends.values():
        backend.config = BackendConfig(on_overflow="refuse")
    gateway.registry.rebuild()
    assert not answer(gateway, asked(turns(8)))[1]


@pytest.mark.parametrize("question", ["long", "nothing before"])
def test_what_cannot_be_made_to_fit_is_refused(serve: Serve, question: str) -> None:
    last = Message(role="user", content="x" * 3000)
    messages = (*turns(2)[:-1], last) if question == "long" else (HEAD, last)
    events, told = answer(serve(ScriptedDriver(say("Sum")), on_overflow="compact"), asked(messages))
    assert is_refused(events) and not told


def test_model_that_writes_no_summary_is_asked_once_more(serve: Serve) -> None:
    driver = ScriptsInTurn(say(" "), say("At last."))
    gateway = serve(driver, on_overflow="compact")
    tools = (Tool("weather", "Tells the weather", {"type": "object"}),)
    events, _ = answer(gateway, asked(turns(7), tools=tools))
    assert compacted(events).summary == "At last."
    first, second, _ = prompts(driver)
    assert "weather" in first and "weather" not in second


def test_no_summary_means_a_refusal(serve: Serve) -> None:
    driver = ScriptsInTurn(say(" "), say(""))
    events, _ = answer(serve(driver, on_overflow="compact"), asked(turns(8)))
    assert is_refused(events)


def test_error_of_the_summary_is_that_of_the_answer(serve: Serve) -> None:
    driver = ScriptsInTurn(say("Sum", "med", "up"))
    driver.scripts = [[*say("Sum")[:2], UpstreamFault("broken")]] * 9
    gateway = serve(driver, on_overflow="compact")
    events, _ = answer(gateway, asked(turns(8)))
    assert isinstance(events[-1], Failed)
    assert not isinstance(events[-1].error, ContextExceeded)


def test_client_that_leaves_ends_the_summary(serve: Serve) -> None:
    cancel = Cancel()
    driver = ScriptsInTurn([*say("Sum")[:2], cancel.cancel, *say("med")[1:]])
    gateway = serve(driver, on_overflow="compact")
    running = gateway.answer(asked(turns(8)), cancel)
    with pytest.raises(Cancelled):
        fold(running)
    running.close()
    wait_until(lambda: all(run.closed.is_set() for run in driver.runs))
    assert len(driver.tasks) == 1


def test_length_of_a_summary_is_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction_module, "MOST_TEXT", 5)
    gateway = serve(ScriptsInTurn(say("Summary.")), on_overflow="compact")
    assert compacted(answer(gateway, asked(turns(8)))[0]).summary == "Summa"


def test_number_of_summaries_for_a_request_is_bounded(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction_module, "MOST_STEPS", 2)
    driver = ScriptedDriver(say("Sum"))
    events, told = answer(serve(driver, on_overflow="compact"), asked(turns(40)))
    assert isinstance(events[-1], Failed) and not told and len(driver.tasks) == 2


def test_summaries_in_memory_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction_module, "MOST_KEPT", 8)
    driver = ScriptedDriver(say("Sum"))
    gateway = serve(driver, on_overflow="compact")
    for group in (*"abcdefgh", "a", "i", "b"):
        answer(gateway, asked(turns(8)), Caller(group=group))
    assert gateway.summaries.size == 8
    # One answer each; the first nine groups and the forgotten one needed a summary as well.
    assert len(driver.tasks) == 11 + 10


def test_groups_share_no_summaries(serve: Serve) -> None:
    driver = ScriptedDriver(say("Sum"))
    gateway = serve(driver, on_overflow="compact")
    for group, count in (("a", 2), ("a", 3), ("b", 5)):
        answer(gateway, asked(turns(8)), Caller(group=group))
        assert len(driver.tasks) == count


@pytest.mark.parametrize(
    ("error", "ends"),
    [(Unsupported("it counts no tokens"), True), (UpstreamFault("broken"), False)],
)
def test_prompt_that_cannot_be_counted_is_answered_as_it_is_or_is_an_error(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, error: GatewayError, ends: bool
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise error

    gateway = serve(ScriptedDriver(say("Hello")), on_overflow="compact")
    monkeypatch.setattr(gateway, "fits", refuse)
    monkeypatch.setattr(compaction_module, "most_tokens", lambda _: 1 << 30)
    events, told = answer(gateway, asked(turns(3)))
    assert isinstance(events[-1], Finished) is ends and not told
    assert ends or events == [Failed(error)]


def test_conversations_with_other_heads_share_no_summary(serve: Serve) -> None:
    driver = ScriptedDriver(say("Sum"))
    gateway = serve(driver, on_overflow="compact")
    for head, count in (("Be brief.", 2), ("Be kind.", 4), ("Be kind.", 5)):
        answer(gateway, asked((Message(role="system", content=head), *turns(8)[1:])))
        assert len(driver.tasks) == count


def test_only_the_first_choice_tells_the_compaction(serve: Serve) -> None:
    gateway = serve(ScriptedDriver(say("Sum")), on_overflow="compact")
    running = gateway.answer(asked(turns(8), n=3), Cancel())
    told = [number for number, batch in running for event in batch if isinstance(event, Compacted)]
    running.close()
    assert told == [0]


@pytest.mark.parametrize("trigger", [50, 160])
def test_threshold_that_cannot_be_met_still_compacts(serve: Serve, trigger: int) -> None:
    driver = ScriptsInTurn(say("Short."))
    head = Message(role="system", content="x" * 200)
    request = asked((head, *turns(8)[1:]), compaction=Compaction(trigger))
    events, told = answer(serve(driver), request)
    assert isinstance(events[-1], Finished) and compacted(events).messages == told
    assert len(prompts(driver)[-1]) > trigger


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 3),  # calls of a step; 0: a text, and another question
            st.integers(0, 400),  # characters of each result
            st.booleans(),  # the step also has a text
        ),
        min_size=8,
        max_size=20,
    ),
    open_calls=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_no_call_is_parted_from_its_result(
    steps: list[tuple[int, int, bool]], open_calls: int
) -> None:
    said = [HEAD, Message(role="user", content="<task>")]
    for number, (calls, size, has_text) in enumerate([*steps, (open_calls, 10, False)]):
        names = [f"call-{number}-{j}" for j in range(calls)]
        said.append(
            Message(
                role="assistant",
                content="text" if has_text or not calls else "",
                tool_calls=tuple(ToolCall(name, "run", "{}") for name in names),
            )
        )
        said += [Message(role="tool", content="x" * size, tool_call_id=name) for name in names]
        if not calls:
            said.append(Message(role="user", content=f"question {number}"))
    needed = max(i for i, one in enumerate(said) if one.role == "user" or one.tool_calls)
    for cut in cuts(said):
        short = with_summary(said, cut, "They did x.")
        assert short[0] == HEAD and LEAD in short[1].content
        assert all(one in short or one.role == "user" for one in said[needed:])
        called: list[str] = []
        for message in short:
            called += [call.id for call in message.tool_calls]
            if message.role == "tool":
                assert called.pop(0) == message.tool_call_id, "in the order of the calls"
        assert not called, "no call is left without its result"
        before = [call.id for one in said[:cut] for call in one.tool_calls]
        results = [one.tool_call_id for one in said[:cut] if one.role == "tool"]
        assert before == results, "nor in what is summed up"


def test_conversation_is_compacted_within_an_answer_of_tools(serve: Serve) -> None:
    """Each step of an agent's turn is a request with more results, and the same question."""
    driver = ScriptedDriver(say("Sum"))
    gateway = serve(driver, on_overflow="compact")
    said = [HEAD, Message(role="user", content="<task>")]
    told = []
    for step in range(12):
        call = ToolCall(f"c{step}", "run", f'{{"n": {step}}}')
        result = f"[result {step}] ".ljust(300, "x")
        said.append(Message(role="assistant", tool_calls=(call,)))
        said.append(Message(role="tool", content=result, tool_call_id=call.id))
        events, count = answer(gateway, asked(tuple(said)))
        assert isinstance(events[-1], Finished)
        whole = prompts(driver)[-1]
        assert f"[result {step}]" in whole and len(whole) <= 2048
        for other in range(step + 1):
            assert (f'"n": {other}}}' in whole) == (f"[result {other}]" in whole)
        told.append(count)
    assert told[0] == 0 and max(told) > 10
    assert len(set(told)) < len(told) - 4, "a summary serves several steps"
