from __future__ import annotations

from proxy.core.cache import BoundedCache


def test_oldest_entry_is_evicted_beyond_the_byte_bound() -> None:
    cache: BoundedCache[int] = BoundedCache(100)
    for number in range(10):
        cache.put(b"%d" % number, number, 12)
    assert cache.size <= 100
    assert cache.get(b"0") is None
    assert cache.get(b"9") == 9


def test_recently_used_entry_is_kept() -> None:
    cache: BoundedCache[int] = BoundedCache(36)
    for number in range(9):
        cache.put(b"%d" % number, number, 4)
        cache.get(b"0")
    cache.put(b"x", 10, 4)
    assert cache.get(b"0") == 0
    assert cache.get(b"1") is None
