"""Lines of Ollama's chats, whole and byte by byte."""

from __future__ import annotations

import pytest

from proxy.backends.openai.ollama import Lines, chunk, read_line
from proxy.wire.sse import MAX_EVENT, SSEError

DATA = (
    b'{"message":{"role":"assistant","content":"","thinking":"So"},"done":false}\n\r\n'
    b'{"message":{"content":"H\xc3\xa9"},"done":false}\n'
    b'{"message":{"content":"","tool_calls":[{"function":{"name":"f","arguments":{"b":1,"a":[]}}},'
    b'{"function":{"index":1,"name":"g","arguments":{}}}]},"done":false}\n'
    b'{"message":{"content":""},"done":true,"done_reason":"length","prompt_eval_count":9,'
    b'"prompt_eval_cached_count":4,"eval_count":2}'
)


@pytest.mark.parametrize("size", [1, 7, len(DATA)])
def test_lines_become_chunks(size: int) -> None:
    frames = Lines()
    events = []
    for at in range(0, len(DATA), size):
        events += frames.feed(DATA[at : at + size])
    events += frames.close()
    assert frames.close() == []
    chunks = [chunk(read_line(data), 3, 7) for _, data in events]
    deltas = [piece.choices[0].delta for piece in chunks]
    assert [delta.reasoning_content for delta in deltas[:1]] == ["So"]
    assert [delta.content for delta in deltas] == ["", "H\u00e9", "", ""]
    calls = [
        (call.index, call.function.name, call.function.arguments)
        for call in deltas[2].tool_calls or ()
    ]
    assert calls == [(3, "f", '{"b":1,"a":[]}'), (4, "g", "{}")]
    assert [piece.choices[0].finish_reason for piece in chunks] == [None, None, None, "length"]
    usage = chunks[-1].usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (9, 2)
    assert usage.prompt_tokens_details.cached_tokens == 4
    assert all(piece.usage is None for piece in chunks[:-1])


def test_a_prompt_without_a_count_keeps_its_estimate() -> None:
    usage = chunk(read_line(b'{"done":true,"eval_count":1}'), 0, 7).usage
    assert usage is not None and usage.prompt_tokens == 7


def test_a_line_without_an_end_is_bounded() -> None:
    frames = Lines()
    with pytest.raises(SSEError, match="too large"):
        for _ in range(MAX_EVENT // (1 << 20) + 1):
            frames.feed(b"x" * (1 << 20))
