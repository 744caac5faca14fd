"""The text of keys: form, checksum and digest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounts import key_cache
from proxy.accounts.key_cache import DIGITS, SECRET_BYTES, SECRET_PREFIX

RANDOMNESS = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)


@given(RANDOMNESS)
def test_made_key_is_well_formed(randomness: bytes) -> None:
    key = key_cache.make_secret(randomness)
    assert len(key) == 36
    assert key.startswith(SECRET_PREFIX)
    assert key_cache.is_well_formed(key)


@given(RANDOMNESS, st.integers(0, 32), st.sampled_from(DIGITS))
def test_one_wrong_character_is_detected(randomness: bytes, at: int, digit: str) -> None:
    key = key_cache.make_secret(randomness)
    at += len(SECRET_PREFIX)
    wrong = key[:at] + digit + key[at + 1 :]
    assert key_cache.is_well_formed(wrong) == (wrong == key)


@pytest.mark.parametrize("more", [" ", "\n", "0"])
def test_key_with_more_around_it_is_not_well_formed(more: str) -> None:
    key = key_cache.make_secret(bytes(SECRET_BYTES))
    assert not key_cache.is_well_formed(key + more)
    assert not key_cache.is_well_formed(more + key)


def test_digest_depends_on_key_and_secret() -> None:
    key = key_cache.make_secret(bytes(SECRET_BYTES))
    digests = {
        key_cache.key_digest(key, b"a"),
        key_cache.key_digest(key, b"b"),
        key_cache.key_digest(key_cache.make_secret(bytes(SECRET_BYTES - 1) + b"1"), b"a"),
    }
    assert len(digests) == 3
    assert all(len(digest) == 64 for digest in digests)


@given(RANDOMNESS, st.sampled_from(["", "/", "-", "é"]))
def test_keys_are_taken_out_of_a_text(randomness: bytes, after: str) -> None:
    key = key_cache.make_secret(randomness)
    assert key_cache.without_keys(f"/key/{key}{after}") == f"/key/sk-...{after}"
    assert key_cache.without_keys(f"{key}/{key}x") == "sk-.../sk-..."


@pytest.mark.parametrize("text", ["", "/v1/models", "/tasks/task-17", "sk-" + "a" * 32, "s" * 99])
def test_text_without_keys_stays_as_it_is(text: str) -> None:
    assert key_cache.without_keys(text) == text
