"""Replays of public traces, with excerpts made by ourselves in their formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import traces

EXCERPTS = Path(__file__).parents[2] / "cases" / "traces"
CONVERSATIONS = EXCERPTS / "conversations.jsonl"
LENGTHS = EXCERPTS / "lengths.csv"


def test_prompts_of_conversations_share_their_blocks() -> None:
    first, second, *_ = traces.read(CONVERSATIONS)
    assert first.at == 0
    assert (first.prompt, first.answer) == (1855, 150)
    assert first.blocks[0] == second.blocks[0]
    assert first.blocks[1:] != second.blocks[1:]


def test_prompts_of_lengths_share_nothing() -> None:
    requests = traces.read(LENGTHS)
    assert (requests[0].at, requests[0].prompt, requests[0].answer) == (0, 2574, 105)
    assert requests[1].at == pytest.approx(0.380163, abs=1e-5)
    assert len({request.blocks for request in requests}) == len(requests)


def test_arrivals_are_scaled_to_the_backends() -> None:
    trace = traces.read(CONVERSATIONS)
    few, slow = traces.replayed(trace, 1, 4, 100)
    assert slow < 1
    assert len(few) % len(trace) == 0
    assert few[-1][0] == pytest.approx(trace[-1].at / slow)
    many, speed = traces.replayed(trace, 1000, 4, 100)
    assert 0.9 < speed <= 1  # no user asks faster than in the trace: there are more users
    assert len(many) == 100
    assert len({request.links[0] for _, request in many}) > 1


@pytest.mark.parametrize("path", [CONVERSATIONS, LENGTHS], ids=lambda path: path.suffix)
def test_every_policy_serves_every_request_within_the_bound(path: Path) -> None:
    rows = [*traces.replay("excerpt", traces.read(path), ((1, 4), (2, 2)), 100)]
    assert [row.policy for row in rows] == 2 * [*traces.POLICIES]
    for row in rows:
        assert 0 <= row.cached <= row.bound
        assert 0 < row.p50 <= row.p99
        assert (row.cached > 0) == (path is CONVERSATIONS)
    assert traces.table(rows).count("excerpt, ") == 2
