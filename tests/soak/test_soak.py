"""Short soaks pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import redis_servers
from tests.soak import report
from tests.soak.run import soak
from tools import servers

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").is_file(), reason="memory is read from Linux's /proc"
)


@needs_proc
@pytest.mark.slow
def test_forty_seconds_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    if servers.find("llama-2023") is None:
        pytest.skip("llama-2023 is not built: python -m tools.servers build llama-2023")
    done = soak(tmp_path, 40.0, seed=3)
    failed = report.failures(done)
    assert not failed, "\n".join([*failed, report.outcome(done)])
    assert done.ends["chat", "whole"] > 50
    assert sum(done.troubles.values()) >= 3


@needs_proc
@pytest.mark.slow
def test_several_gateways_lose_nothing_while_they_and_their_networks_fail(tmp_path: Path) -> None:
    redis_servers.first()
    done = soak(tmp_path, 15.0, seed=4, rate=4.0, gateways=3, stubs=8)
    failed = report.failures(done)
    assert not failed, "\n".join([*failed, report.outcome(done)])
    assert done.ends["chat", "whole"] > 10
    assert sum(done.troubles.values()) >= 1
