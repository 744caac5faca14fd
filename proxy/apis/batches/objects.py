"""OpenAI's batches: parses requests and the lines of input files, and writes lines of output.

`completion_window` may be any time up to 30 days (`90m`, `24h`, `7d`); OpenAI has `24h` alone.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ...errors import InvalidParameter
from .. import schema_fields as doc
from ..fields import Body, choice, filled, integer, mapping, required
from ..schema_fields import Schema
from ..vector_stores.request import LATEST, METADATA, SOONEST, metadata

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
MOST_LINES = 50_000
MOST_ERRORS = 100  # told of an invalid file
LONGEST_ID = 512  # characters of a custom_id
LONGEST_WINDOW = 30 * 86_400  # seconds

_WINDOW = re.compile(r"([0-9]{1,7})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_encode = msgspec.json.Encoder().encode


class LineError(Exception):
    """A line of an input file that is no valid request."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param

    def at(self, number: int | None) -> dict[str, Any]:
        """The error object, for the line of this number, from 1."""
        return {"code": self.code, "line": number, "message": self.message, "param": self.param}


def parse(body: Body) -> tuple[dict[str, Any], int]:
    """The fields of a new batch, and its window in seconds; `lasts` is how long its output files
    are kept, in seconds, None for ever. Raises InvalidParameter."""
    endpoint = choice(body, "endpoint", ENDPOINTS)
    window = required(body, "completion_window")
    match = _WINDOW.fullmatch(window)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= seconds <= LONGEST_WINDOW:
        raise InvalidParameter(
            "completion_window", "must be a time up to 30 days, for example 24h, 90m or 7d"
        )
    expiry = mapping(body, "output_expires_after")
    lasts = integer(expiry, "seconds", SOONEST, LATEST, "output_expires_after.")
    if expiry and (expiry.get("anchor") != "created_at" or lasts is None):
        raise InvalidParameter(
            "output_expires_after", "must have the anchor created_at and a number of seconds"
        )
    return {
        "endpoint": endpoint,
        "file_id": filled(body, "input_file_id"),
        "window": window,
        "metadata": metadata(body) or {},
        "lasts": lasts,
    }, seconds


def check_line(value: Any, endpoint: str) -> None:
    """Check a decoded line of an input file. Raises LineError."""
    if type(value) is not dict:
        raise LineError("invalid_json_line", "the line is not a JSON object")
    custom_id = value.get("custom_id")
    if type(custom_id) is not str or not 0 < len(custom_id) <= LONGEST_ID:
        message = f"custom_id must be a string of 1 to {LONGEST_ID} characters"
        raise LineError("invalid_custom_id", message, "custom_id")
    if value.get("method") != "POST":
        raise LineError("invalid_method", "method must be POST", "method")
    if value.get("url") != endpoint:
        raise LineError("mismatched_url", f"url must be {endpoint}, as in the batch", "url")
    body = value.get("body")
    if type(body) is not dict:
        raise LineError("invalid_body", "body must be an object", "body")
    for name in ("stream", "background"):
        if body.get(name):
            message = f"{name} is not supported in a batch"
            raise LineError("unsupported_parameter", message, f"body.{name}")


def answered(request_id: str, custom_id: str, status: int, body: bytes) -> bytes:
    """The line of an output or error file for an answer with this JSON as its body."""
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    return _line(request_id, custom_id, response, None)


def unanswered(request_id: str, custom_id: str, code: str, message: str) -> bytes:
    """The line of an error file for a request that was not answered."""
    return _line(request_id, custom_id, None, {"code": code, "message": message})


def _line(request_id: str, custom_id: str, response: Any, error: Any) -> bytes:
    line = {"id": f"batch_req_{request_id}", "custom_id": custom_id}
    return _encode({**line, "response": response, "error": error}) + b"\n"


SCHEMAS: dict[str, Schema] = {
    "BatchRequest": doc.body(
        "input_file_id endpoint completion_window",
        input_file_id=doc.text("An uploaded file with the purpose batch.", "file-1"),
        endpoint=doc.text(
            "The route that answers the lines.", "/v1/chat/completions", enum=list(ENDPOINTS)
        ),
        completion_window=doc.text("How long the batch may take: 24h, 90m, up to 30d.", "24h"),
        metadata=METADATA,
        output_expires_after=doc.mapping(
            "When the output files are deleted.", {"anchor": "created_at", "seconds": 86_400}
        ),
    )
}
