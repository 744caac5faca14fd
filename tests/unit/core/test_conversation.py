"""`truncation: auto`: the oldest messages are dropped where the context is too small."""

from __future__ import annotations

import pytest

from proxy.core.conversation import shortened
from proxy.core.request import CompletionRequest, Message, ToolCall


class Context:
    """A context of `size` characters that counts the characters it had to read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.read = self.checks = 0

    def fits(self, request: CompletionRequest) -> bool:
        length = sum(message.characters for message in request.messages)
        self.read += length
        self.checks += 1
        return length <= self.size


def conversation(*sizes: int) -> CompletionRequest:
    said = [
        Message(role=("user", "assistant")[i % 2], content="x" * size)
        for i, size in enumerate(sizes)
    ]
    return CompletionRequest(messages=(Message(role="system", content="Be brief."), *said))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100, 499, 500])
@pytest.mark.parametrize("size", [1, 1_000, 40_000, 90_000])
def test_shortening_keeps_as_many_newest_messages_as_fit(size: int, count: int) -> None:
    whole = conversation(*[size] * 500)
    short = shortened(whole, Context(9 + size * count).fits)
    assert short.messages == (whole.messages[0], *whole.messages[-count:])


@pytest.mark.parametrize("size", [100, 30_000])
def test_shortening_always_keeps_the_last_message(size: int) -> None:
    whole = conversation(50, 50, size)
    assert shortened(whole, Context(20).fits).messages == (whole.messages[0], whole.messages[-1])


def test_shortening_drops_tool_result_with_its_call() -> None:
    call = Message(role="assistant", tool_calls=(ToolCall("c", "f", "x" * 40),))
    result, last = (
        Message(role="tool", content="y" * 40, tool_call_id="c"),
        Message(role="user", content="go on"),
    )
    request = CompletionRequest(
        messages=(Message(role="user", content="z" * 40), call, result, last)
    )
    assert shortened(request, Context(90).fits).messages == (call, result, last)
    assert shortened(request, Context(80).fits).messages == (last,)


@pytest.mark.parametrize("held", [1_000, 100_000, 400_000])
def test_cost_of_shortening_depends_on_context_not_on_conversation(
    held: int,
) -> None:
    """For 32 MB, 32 million characters used to be rendered."""
    read = []
    for messages in (4_000, 32_000):
        context = Context(held)
        shortened(conversation(*[1_000] * messages), context.fits)
        read.append(context.read)
        assert context.checks <= 20
    assert read[0] == read[1] <= 20 * max(held, 64 << 10)
