"""First tokens in the simulator: the policy beside simpler ones, on lines where it is far ahead."""

from __future__ import annotations

import pytest

from benchmarks.simulate_prefixes import POLICIES, firsts, percentiles


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "size", "load"),
    [
        ("GPU", (1, 8), "bursts"),
        ("GPU", (1, 8), "agents"),
        ("CPU", (2, 4), "Poisson"),
    ],
)
def test_first_tokens_come_no_later_than_with_the_best_simple_policy(
    kind: str, size: tuple[int, int], load: str
) -> None:
    told = {
        name: percentiles(firsts(policy, size, kind, load, 2)) for name, policy in POLICIES.items()
    }
    ours = told.pop("slotproxy")
    for which in (0, 1):
        assert ours[which] <= 1.05 * min(one[which] for one in told.values())
