"""Writes what a terminal shows as an SVG that plays: commands are typed, output appears.

The SVG needs no script: each line has an animation that makes it visible at its time. Viewers
without animations, and readers who want little motion, see the last picture at once.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from tools.processes import Gateway

COLUMNS = 92
WIDTH, HEIGHT = 8.43, 20  # of a character, in pixels
MARGIN, BAR = 20, 36  # pixels
TYPED = 30  # characters typed in a second
PAUSE = 0.6  # seconds between a command and its output
READ = 1.4  # seconds between an output and the next command
QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
SHOWN, SERVER = "http://127.0.0.1:8081", "http://127.0.0.1:8080"  # as in the README
STYLE = """
text { fill: #e8eaee; white-space: pre; }
text { font: 14px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.typed { fill: #8fb6ff; }
.sign { fill: #7fd69a; }
.line { animation: show 0.01s linear both; }
@keyframes show { from { visibility: hidden; } to { visibility: visible; } }
@media (prefers-reduced-motion: reduce) { .line { animation: none; } }
"""


class Line(NamedTuple):
    """A line of the terminal, and the second in which it appears."""

    text: str
    at: float
    typed: bool = False


class Turn(NamedTuple):
    """A command, and what it printed."""

    command: str
    output: str


def lines(turns: Sequence[Turn]) -> Iterator[Line]:
    """Yield the lines of a session in their order."""
    now = READ / 2
    for command, output in turns:
        for n, part in enumerate(_broken(command)):
            yield Line(("$ " if n == 0 else "  ") + part, now, typed=True)
            now += len(part) / TYPED
        now += PAUSE
        for text in output.splitlines():
            for part in textwrap.wrap(text, COLUMNS, break_on_hyphens=False) or [""]:
                yield Line(part, now)
        yield Line("", now)
        now += READ


def _broken(command: str) -> list[str]:
    """A command in lines that fit. Within quotes, a line may end
    anywhere."""
    parts = textwrap.wrap(command, COLUMNS - 4, break_on_hyphens=False, break_long_words=False)
    quotes = [" ".join(parts[: n + 1]).count("'") for n in range(len(parts) - 1)]
    ends = ["" if number % 2 else " \\" for number in quotes]
    return [part + end for part, end in zip(parts, [*ends, ""], strict=True)]


def svg(session: Sequence[Line], title: str) -> str:
    """Return the picture of a session."""
    width = round(COLUMNS * WIDTH) + 2 * MARGIN
    height = BAR + len(session) * HEIGHT + MARGIN
    rows = "\n".join(
        f'<text class="line" x="{MARGIN}" y="{BAR + (n + 1) * HEIGHT - 5}"'
        f' style="animation-delay: {line.at:.2f}s">{_marked(line)}</text>'
        for n, line in enumerate(session)
        if line.text
    )
    dots = "".join(
        f'<circle cx="{MARGIN + 18 * n}" cy="18" r="5.5" fill="#3a3f49"/>' for n in range(3)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img" aria-label="{escape(title)}">\n<style>{STYLE}</style>\n'
        f'<rect width="{width}" height="{height}" rx="12" fill="#14161a"/>{dots}\n{rows}\n</svg>\n'
    )


def _marked(line: Line) -> str:
    if not line.typed:
        return escape(line.text)
    sign, text = line.text[:2], line.text[2:]
    return f'<tspan class="sign">{sign}</tspan><tspan class="typed">{escape(text)}</tspan>'


def record(gateway: Gateway, flags: Sequence[str], file: Path) -> None:
    """Record a session with a running gateway: its start as it was logged, and two questions. The
    addresses in the picture are those of the README."""
    started = next(line for line in gateway.log.splitlines() if line.startswith("slotproxy:"))
    command = " ".join([f"slotproxy --llama-api {SERVER}", *map(shlex.quote, flags)])
    openai, anthropic = (
        {**QUESTION, "max_tokens": 64},
        {"model": "any", **QUESTION, "max_tokens": 64},
    )
    turns = [
        Turn(f"{command} &", _shown(started, gateway.url)),
        _asked(gateway, "/v1/chat/completions", openai, ".choices[0].message.content"),
        _asked(gateway, "/v1/messages", anthropic, ".content[0].text"),
    ]
    file.write_text(svg([*lines(turns)], "slotproxy in a terminal"), encoding="utf-8")


def _shown(text: str, address: str) -> str:
    """Replace the address of the gateway, and that of its server, by the usual ones."""
    return re.sub(r"http://127\.0\.0\.1:(?!8081)\d+", SERVER, text.replace(address, SHOWN))


def _asked(gateway: Gateway, path: str, body: object, wanted: str) -> Turn:
    """Ask with curl, as the picture says, and take a part of the answer with jq."""
    told = json.dumps(body)
    command = ["curl", "-s", f"{gateway.url}{path}", "-d", told]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    part = subprocess.run(["jq", "-rc", wanted], input=answer, capture_output=True, check=True)
    shown = f"curl -s {SHOWN}{path} -d '{told}' | jq -rc '{wanted}'"
    return Turn(shown, part.stdout.decode().strip())
