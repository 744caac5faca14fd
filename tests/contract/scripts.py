"""Scripts of events, as pipelines produce them, and what a client must receive.

A script is a list of (choice, batch). `None` in place of a batch is a tick of silence.
"""

from __future__ import annotations

from msgspec import Struct

from proxy.core.events import (
    Batch,
    Event,
    Failed,
    Finished,
    FinishReason,
    Progress,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenDetail,
    TokenLogprob,
    ToolCallDelta,
)
from proxy.core.usage import Timings, Usage
from proxy.errors import ContextExceeded, QueueFull, UpstreamFault, UpstreamTimeout

USAGE = Usage(7, 3, 2)
TIMES = Timings(cache_n=2, prompt_n=5, prompt_ms=10.0, predicted_n=3, predicted_ms=30.0)
# Every line end of Python, JavaScript and SSE, and difficult characters for JSON encoders.
NASTY = 'a\n\nb\r\nc\u2028d\u2029e\x85f\x0bg"\\\x00\x1f </script> data: x 你好 🚀\x7f'


class Script(Struct, frozen=True):
    """`text`, `thoughts` and `calls` (name, arguments) are what a client receives of each choice;
    `reason` is the finish reason, "" if it fails."""

    steps: tuple[tuple[int, Batch], ...]
    text: tuple[str, ...] = ("",)
    thoughts: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    reason: FinishReason | None = "stop"
    stop: str = ""
    prompts: int = 1


def end(reason: FinishReason = "stop", stop: str = "") -> Finished:
    return Finished(reason=reason, usage=USAGE, timings=TIMES, slot=1, stop_sequence=stop)


def steps(*batches: Batch) -> tuple[tuple[int, Batch], ...]:
    return tuple((0, batch) for batch in batches)


def say(*pieces: str) -> list[Batch]:
    return [[TextDelta(piece)] for piece in pieces]


TOKEN = TokenLogprob("Hi", -0.5, b"Hi", (TokenLogprob("Hi", -0.5, b"Hi"),))
CALL: list[Event] = [
    ToolCallDelta(0, "call_a", "weather"),
    ToolCallDelta(0, arguments='{"city":'),
    ToolCallDelta(0, arguments='"Köln"}'),
]
OTHER: list[Event] = [ToolCallDelta(1, "call_b", "clock", "{}")]

SCRIPTS: dict[str, Script] = {
    "text": Script(steps([Started()], *say("Hel", "lo"), [end()]), ("Hello",)),
    "text at once": Script(
        steps([Started(), TextDelta("Hel"), TextDelta("lo"), end()]), ("Hello",)
    ),
    "nothing": Script(steps([Started()], [end()])),
    "empty pieces": Script(steps([Started()], *say("", "a", ""), [end()]), ("a",)),
    "nasty": Script(steps([Started()], *say(*NASTY), [end()]), (NASTY,)),
    "nasty at once": Script(steps([Started()], *say(NASTY), [end()]), (NASTY,)),
    "long": Script(steps([Started()], *say(*["word "] * 300), [end()]), ("word " * 300,)),
    "length": Script(steps([Started()], *say("Hel"), [end("length")]), ("Hel",), reason="length"),
    "stop string": Script(
        steps([Started()], *say("Hel"), [end(stop="STOP")]), ("Hel",), stop="STOP"
    ),
    "the template's own end": Script(
        steps([Started()], *say("Hel"), [end(stop="<|im_end|>")]), ("Hel",)
    ),
    "ticks": Script(steps([], [Started()], [], *say("a"), [], [], *say("b"), [], [end()]), ("ab",)),
    "progress": Script(steps([Started()], [Progress(9, 2, 4)], *say("a"), [end()]), ("a",)),
    "reports": Script(
        steps(
            [Started(), Progress(9, 2, 4, 1.5, TIMES)],
            [TextDelta("a"), TokenDetail(TIMES)],
            [TokenDetail(TIMES)],
            [TextDelta("b"), TokenDetail(TIMES), TextDelta("c"), TokenDetail(TIMES)],
            [end()],
        ),
        ("abc",),
    ),
    "thoughts": Script(
        steps(
            [Started()], [ReasoningDelta("I ")], [ReasoningDelta("think"), TextDelta("so")], [end()]
        ),
        ("so",),
        thoughts="I think",
    ),
    "thoughts alone": Script(
        steps([Started()], [ReasoningDelta("hm")], [end("length")]), thoughts="hm", reason="length"
    ),
    "a call": Script(
        steps([Started()], CALL, [end("tool_calls")]),
        calls=(("weather", '{"city":"Köln"}'),),
        reason="tool_calls",
    ),
    "all kinds": Script(
        steps(
            [Started()],
            [ReasoningDelta("hm")],
            *say("Let me ", "see."),
            *[[delta] for delta in CALL],
            OTHER,
            [end("tool_calls")],
        ),
        ("Let me see.",),
        thoughts="hm",
        calls=(("weather", '{"city":"Köln"}'), ("clock", "{}")),
        reason="tool_calls",
    ),
    "a cut call": Script(
        steps([Started()], CALL[:2], [end("length")]),
        calls=(("weather", '{"city":'),),
        reason="length",
    ),
    "a call cut behind its name": Script(
        steps([Started()], CALL[:1], [end("length")]), calls=(("weather", ""),), reason="length"
    ),
    "logprobs": Script(
        steps([Started()], [TextDelta("Hi", (TOKEN,))], [end("length")]), ("Hi",), reason="length"
    ),
    "fails at once": Script(steps([], [Failed(QueueFull("full", retry_after=2.0))]), reason=None),
    "fails late": Script(
        steps([Started()], *say("Hel"), [TextDelta("lo"), Failed(UpstreamFault("it broke"))]),
        ("Hello",),
        reason=None,
    ),
    "fails in thoughts": Script(
        steps([Started()], [ReasoningDelta("hm")], [Failed(UpstreamTimeout("too slow"))]),
        thoughts="hm",
        reason=None,
    ),
    "fails in a call": Script(
        steps([Started()], CALL, [Failed(ContextExceeded(9000, 2048))]),
        calls=(("weather", '{"city":"Köln"}'),),
        reason=None,
    ),
    "two choices": Script(
        (
            (0, [Started()]),
            (1, [Started()]),
            (1, [TextDelta("B")]),
            (0, [TextDelta("A")]),
            (0, []),
            (1, [end()]),
            (0, [TextDelta("a")]),
            (0, [end()]),
        ),
        ("Aa", "B"),
    ),
}
