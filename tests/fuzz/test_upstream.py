"""A little of what the fuzzer does, the same on every run."""

from __future__ import annotations

from tests.fuzz.upstream import fuzz


def test_no_backend_bytes_break_a_driver() -> None:
    ends = fuzz(seed=1, count=300)
    assert ends["Finished"] > 10 and ends["UpstreamFault"] > 10  # both ways are gone
