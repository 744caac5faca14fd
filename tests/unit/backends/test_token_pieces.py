"""Token pieces: the bytes of each token of a text."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.backends.tokens import MOST_DISTINCT, MOST_PIECES, token_pieces
from proxy.errors import BackendDown, BadRequest, CharacterCut, GatewayError, Unsupported
from proxy.runtime.cancel import Cancel


class Server:
    """A driver that counts requests; a text consists of its token ids."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: GatewayError | None = None

    def ids(self, text: str, special: bool, cancel: Cancel) -> list[int]:
        return [int(number) for number in text.split()]

    def pieces(self, text: str, special: bool) -> None:
        return None

    def detokenize(self, ids: list[int]) -> str:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return "".join(map(str, ids))


def pieces(text: str) -> list[tuple[int, bytes]]:
    server: Any = Server()
    return token_pieces(server, server, text, False, Cancel())


def test_each_token_is_requested_once() -> None:
    server: Any = Server()
    assert token_pieces(server, server, "7 5 7", False, Cancel()) == [
        (7, b"7"),
        (5, b"5"),
        (7, b"7"),
    ]
    assert server.asked == 2


def test_text_with_too_many_tokens_is_refused_early() -> None:
    """Looking at 400 000 tokens blocked the event loop for a third of a second."""
    assert len(pieces("7 " * MOST_PIECES)) == MOST_PIECES
    with pytest.raises(BadRequest, match=f"{MOST_PIECES + 1} tokens"):
        pieces("7 " * (MOST_PIECES + 1))


def test_too_many_different_tokens_are_refused() -> None:
    assert len(pieces(" ".join(map(str, range(MOST_DISTINCT))))) == MOST_DISTINCT
    with pytest.raises(BadRequest, match="distinct tokens"):
        pieces(" ".join(map(str, range(MOST_DISTINCT + 1))))


def test_partial_character_is_bad_request_and_down_backend_is_503() -> None:
    server: Any = Server()
    server.error = CharacterCut("no text")
    with pytest.raises(Unsupported, match="part of a character"):
        token_pieces(server, server, "7", False, Cancel())
    server.error = BackendDown("not responding")
    with pytest.raises(BackendDown):
        token_pieces(server, server, "7", False, Cancel())
