"""What the drivers of servers that hear have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..core.task import Call, CallForm, Forwarded
from ..core.usage import Usage
from ..errors import Unsupported, UpstreamFault

TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"
MAX_ANSWER = 16 << 20  # bytes


def form_of(call: Call) -> CallForm | None:
    """The form with a recording; None for a call of another path. Raises Unsupported."""
    if call.path not in (TRANSCRIPTIONS, TRANSLATIONS):
        return None
    if call.form is None:
        raise Unsupported("send the recording as a form (multipart/form-data) with file and model")
    return call.form


def whole(answer: Forwarded) -> bytes:
    """The whole body of an answer, which is closed. Raises UpstreamFault, and like `answer`."""
    data = bytearray()
    try:
        for part in answer:
            data += part
            if len(data) > MAX_ANSWER:
                raise UpstreamFault("the backend's answer is too long")
    finally:
        answer.close()
    return bytes(data)


class Written:
    """An answer that is written here, as `core.task.Forwarded`."""

    status = 200

    def __init__(self, kind: str, data: bytes, usage: Usage) -> None:
        self.usage = usage
        self.headers: Mapping[str, str] = {"content-type": kind}
        self.closing: list[Callable[[bool], object]] = []
        self._data, self._whole = data, False

    def __iter__(self) -> Iterator[bytes]:
        yield self._data
        self._whole = True

    def close(self) -> None:
        closing, self.closing = self.closing, []
        for close in closing:
            close(self._whole)
