"""Bounds on tools and the children they run in, each at its edge."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from proxy.agent import calculator, mcp
from proxy.agent.calculator import Wrong, calculate


def test_length_of_calculations_is_bounded() -> None:
    most = calculator.LONGEST
    assert calculate("1" + " " * (most - 1)) == "1"
    with pytest.raises(Wrong, match=f"{most} characters"):
        calculate("1" + " " * most)
    deepest = calculator.DEEPEST
    assert calculate("-" * (deepest - 2) + "1") in ("1", "-1")
    with pytest.raises(Wrong, match="nested"):
        calculate("-" * (deepest + 1) + "1")
    bits = calculator.MOST_BITS
    number = f"2 ** {bits // 2 - 1} * 2 ** {bits // 2}"
    assert len(calculate(number)) > 100  # of so many bits
    with pytest.raises(Wrong, match="too large"):
        calculate(f"{number} * 2")


def test_number_of_tool_list_pages_is_bounded() -> None:
    cursors: list[object] = []

    class Endless:
        async def list_tools(self, cursor: object) -> object:
            cursors.append(cursor)
            tool = SimpleNamespace(name=f"t{len(cursors)}", description="", input_schema={})
            return SimpleNamespace(tools=[tool], next_cursor="more")

    tools = asyncio.run(mcp._listed(Endless()))
    assert len(cursors) == len(tools) == mcp.MOST_PAGES
