from __future__ import annotations

from proxy.core.cache import BoundedCache


def test_oldest_entry_is_evicted_beyond_the_byte_bound() -> None:
    kept: BoundedCache[int] = BoundedCache(100)
    for number in range(10):
        kept.put(b"%d" % number, number, 12)
    assert kept.size <= 100
    assert kept.get(b"0") is None
    assert kept.get(b"9") == 9


def test_recently_used_entry_is_kept() -> None:
    kept: BoundedCache[int] = BoundedCache(36)
    for number in range(9):
        kept.put(b"%d" % number, number, 4)
        kept.get(b"0")
    kept.put(b"x", 10, 4)
    assert kept.get(b"0") == 0
    assert kept.get(b"1") is None
