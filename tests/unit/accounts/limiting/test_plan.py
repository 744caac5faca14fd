"""The plan of a request: which of its key's limits count."""

from __future__ import annotations

import re

from proxy.accounts.limiting.plan import meter_of_window
from proxy.accounts.limits import Window


def test_names_of_meters_are_unique_and_safe_in_a_lease() -> None:
    windows = [Window("requests", "minute", 1, model) for model in ("", "a", "a=1,b|*", "a*")]
    names = [meter_of_window(window).name for window in windows]
    assert len(set(names)) == len(windows)
    assert all(re.fullmatch(r"[a-z0-9_/]+", name) for name in names)
