"""The size of the vocabulary, and token ids outside it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from proxy.backends.driver import Capabilities
from proxy.backends.llamacpp import MOST, STEP, counted
from proxy.backends.tokens import check_ids
from proxy.errors import BadRequest, Unsupported
from tests.fakes import ScriptedDriver

OLD = Capabilities(dialect="2023")
NEW = Capabilities(dialect="llama-server", queues=True, n_vocab=100)


class Old:
    """A server of 2023 with this many tokens; it tells which ids of a request exist."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked = 0

    def __call__(self, ids: Sequence[int]) -> set[int]:
        self.asked += 1
        return {one for one in ids if one < self.size}


@pytest.mark.parametrize("size", [1, 960, STEP, STEP + 1, 4000, 32_000, 49_152, 151_936, 262_144])
def test_vocabulary_size_is_exact_after_two_requests(size: int) -> None:
    server = Old(size)
    assert counted(server) == size
    assert server.asked == 2


@pytest.mark.parametrize("told", [set(), {-1, 5}, set(range(0, MOST, STEP))])
def test_vocabulary_size_is_unknown_without_answers(told: set[int]) -> None:
    assert counted(lambda _: told) == 0


class Sized(ScriptedDriver):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def n_vocab(self) -> int:
        return self.size


@pytest.mark.parametrize("wrong", [-1, 10, 10**9, 2**31, 2**32 + 5])
def test_id_outside_vocabulary_is_refused_with_its_parameter(wrong: int) -> None:
    for harmless in (False, True):
        with pytest.raises(BadRequest, match=f"{wrong}.* 0 to 9") as caught:
            check_ids(Sized(10), [0, 9, wrong], OLD, "prompt", harmless=harmless)
        assert caught.value.param == "prompt"
    check_ids(Sized(10), [0, 9], OLD, "prompt")
    with pytest.raises(BadRequest, match="0 to 99"):
        check_ids(Sized(10), [100], NEW, "prompt")


def test_ids_are_refused_where_vocabulary_size_is_unknown() -> None:
    with pytest.raises(Unsupported, match="send text"):
        check_ids(Sized(0), [5], OLD, "prompt")
    check_ids(Sized(0), [5], OLD, "tokens", harmless=True)
