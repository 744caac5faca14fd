"""What is known of a model's process from outside."""

from __future__ import annotations

import os

from proxy.hosting.process import resident


def test_memory_of_a_session_is_read() -> None:
    held = resident(os.getsid(0))
    assert all(size >= 0 for size in held.values())
    assert held[os.getpid()] > 0
    assert resident(2**30) == {}
