"""The bytes of each token of a text."""

from __future__ import annotations

from ..cancel import Cancel
from ..errors import BadRequest, Cancelled, CharacterCut, Unsupported
from .driver import Driver, TellsPieces
from .tokens import TokenCounter

MOST = 512  # different tokens whose pieces are asked for one by one
MOST_TOLD = 32_768  # tokens of a text: 30 ms to write them down
WHOLE = 8192  # characters of a text that a backend may tokenize at once


def token_pieces(
    driver: Driver, counter: TokenCounter, text: str, special: bool, cancel: Cancel
) -> list[tuple[int, bytes]]:
    """The tokens of a text, each with its bytes. A backend that does not tell them is asked for the
    text of each token by itself, which a part of a character has not.

    Raises Unsupported, BadRequest, Cancelled."""
    if isinstance(driver, TellsPieces) and len(text) <= WHOLE:
        told = driver.pieces(text, special)
        if told is not None:
            return told
    ids = counter.ids(text, special, cancel)
    if len(ids) > MOST_TOLD:
        raise BadRequest(
            f"the text has {len(ids)} tokens, the pieces of {MOST_TOLD} can be had at once: send it"
            " in parts",
            param="content",
        )
    known: dict[int, bytes] = {}
    for number in ids:
        if number in known:
            continue
        if len(known) == MOST:
            raise BadRequest(
                f"the pieces of {MOST} different tokens can be had at most: send the text in parts",
                param="content",
            )
        if cancel.cancelled:
            raise Cancelled("the client closed the request")
        known[number] = _piece(driver, number, text)
    return [(number, known[number]) for number in ids]


def _piece(driver: Driver, number: int, text: str) -> bytes:
    try:
        piece = driver.detokenize([number])
    except CharacterCut:
        piece = "\ufffd"
    if "\ufffd" in piece and "\ufffd" not in text:
        raise Unsupported(
            "the backend of this model cannot tell a token that is a part of a character",
            param="with_pieces",
        )
    return piece.encode()
