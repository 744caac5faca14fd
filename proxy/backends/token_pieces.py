"""The tokens of a text, each with its bytes."""

from __future__ import annotations

from ..errors import BadRequest, CharacterCut, Unsupported
from ..runtime.cancel import Cancel
from .driver import Driver
from .tokens import TokenCounter

MOST = 512  # different tokens that are detokenized one by one
MOST_TOLD = 32_768  # tokens of a text: 30 ms to serialize
WHOLE = 8192  # characters of a text that a backend may tokenize in one call


def token_pieces(
    driver: Driver, counter: TokenCounter, text: str, special: bool, cancel: Cancel
) -> list[tuple[int, bytes]]:
    """The tokens of a text, each with its bytes. If a backend does not report them, each token is
    detokenized by itself, which fails for an incomplete character.

    Raises Unsupported, BadRequest, Cancelled."""
    if len(text) <= WHOLE and (reported := driver.pieces(text, special)) is not None:
        return reported
    ids = counter.ids(text, special, cancel)
    if len(ids) > MOST_TOLD:
        raise BadRequest(
            f"the text has {len(ids)} tokens, but pieces are limited to {MOST_TOLD} tokens per"
            f" request: split the text",
            param="content",
        )
    known: dict[int, bytes] = {}
    for number in ids:
        if number in known:
            continue
        if len(known) == MOST:
            raise BadRequest(
                f"pieces are limited to {MOST} distinct tokens: split the text", param="content"
            )
        cancel.check()
        known[number] = _piece(driver, number, text)
    return [(number, known[number]) for number in ids]


def _piece(driver: Driver, number: int, text: str) -> bytes:
    try:
        piece = driver.detokenize([number])
    except CharacterCut:
        piece = "\ufffd"
    if "\ufffd" in piece and "\ufffd" not in text:
        raise Unsupported(
            "this model's backend cannot return a token that is part of a character",
            param="with_pieces",
        )
    return piece.encode()
