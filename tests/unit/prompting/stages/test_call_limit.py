"""An answer has at most so many calls."""

from __future__ import annotations

import pytest

from proxy.core.events import Batch, Finished, ToolCallDelta
from proxy.core.usage import Usage
from proxy.prompting.stages.calls import CallLimit


@pytest.mark.parametrize("together", [True, False])
def test_the_answer_ends_at_the_maximum_of_calls(together: bool) -> None:
    calls: Batch = []
    for index in range(4):
        calls.append(ToolCallDelta(index, f"call_{index}", "now"))
        calls.append(ToolCallDelta(index, arguments="{}"))
    end = Finished(reason="stop", usage=Usage(1, 2))
    limit = CallLimit(4, Usage)
    assert limit.feed([*calls, end]) == [*calls, end]
    limit, out = CallLimit(3, lambda: end.usage), list[object]()
    for batch in [calls] if together else [[event] for event in calls]:
        out += [] if limit.ended else limit.feed(list(batch))
    assert out == [*calls[:6], Finished(reason="tool_calls", usage=end.usage)]
