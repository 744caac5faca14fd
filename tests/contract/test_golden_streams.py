"""Golden files of streams: the exact bytes that each dialect sends for a script of events.

tests/cases/streams/<dialect>/<script>.txt holds them. To write them all anew:
`python -m tests.contract.test_golden_streams`; what git then shows is what clients would see.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.scripts import SCRIPTS
from tests.contract.test_dialects import VOICES, fits, streamed

STREAMS = Path(__file__).resolve().parents[1] / "cases" / "streams"
STORIES = (
    "text",
    "length",
    "stop string",
    "thoughts",
    "a call",
    "all kinds",
    "logprobs",
    "two choices",
    "ticks",
    "fails late",
    "fails in a call",
    "reports",
)


UNCOUNTED = "text without usage"


def golden() -> Iterator[tuple[str, str, Path]]:
    """Dialect, script, file."""
    for name, voice in VOICES.items():
        folder = STREAMS / name.replace(" ", "_").replace(".", "")
        for story in STORIES:
            if fits(voice, SCRIPTS[story]):
                yield name, story, folder / f"{story.replace(' ', '_')}.txt"
        if name.startswith("openai"):
            yield name, UNCOUNTED, folder / f"{UNCOUNTED.replace(' ', '_')}.txt"


def stream(name: str, story: str) -> bytes:
    usage = story != UNCOUNTED
    return b"".join(streamed(VOICES[name], SCRIPTS[story if usage else "text"], usage))


@pytest.mark.parametrize(
    ("name", "story", "path"),
    [pytest.param(*case, id=f"{case[0]} tells {case[1]}") for case in golden()],
)
def test_stream_has_its_golden_bytes(name: str, story: str, path: Path) -> None:
    assert stream(name, story).decode() == path.read_bytes().decode()


def test_no_golden_file_is_unused() -> None:
    assert set(STREAMS.rglob("*.txt")) == {path for _, _, path in golden()}


if __name__ == "__main__":
    for name, story, path in golden():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stream(name, story))
