"""Records of batches of requests, without the database. Times are seconds since 1970."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

MOST = 2000  # batches of a key; the oldest finished ones make room
UNCHECKED = "validating"
OPEN = (UNCHECKED, "in_progress", "finalizing", "cancelling")


class Tokens(Struct, frozen=True):
    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


class RequestBatch(Struct, frozen=True, kw_only=True):
    """`window` is the text of the request, `times` has the time of each status by its name, and
    that at which the batch `expires`. `lasts`: seconds for which output files are kept, None for
    ever. `peer` is the client's address."""

    id: str
    owner: str
    created: float
    endpoint: str
    file_id: str
    window: str
    times: dict[str, float]
    peer: str = ""
    status: str = "validating"
    model: str = ""
    output_file: str = ""
    error_file: str = ""
    metadata: dict[str, str] = {}
    errors: list[dict[str, Any]] = []
    lasts: int | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def tokens(self) -> tuple[int, int, int, int]:
        """Input, cached, output and reasoning tokens of all answers."""
        return self.input_tokens, self.cached_tokens, self.output_tokens, self.reasoning_tokens


class Result(Struct, frozen=True):
    """The result of the line `number`, from 0: a line of the output file, or of the error file if
    it `failed`."""

    number: int
    failed: bool
    data: bytes
    tokens: Tokens = Tokens()
