"""Writes what a terminal shows as an SVG that plays: commands are typed, output appears.

The SVG needs no script: each line has an animation that makes it visible at its time. Viewers
without animations, and readers who want little motion, see the last picture at once.

``python -m tools.recording`` records docs/images/terminal.svg with real models.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import NamedTuple

from tools import servers, smollm2
from tools.processes import Gateway
from tools.run import SAMPLING

COLUMNS = 92
WIDTH, HEIGHT = 8.43, 20  # of a character, in pixels
MARGIN, BAR = 20, 36  # pixels
TYPED = 30  # characters typed in a second
PAUSE = 0.6  # seconds between a command and its output
READ = 1.4  # seconds between an output and the next command
QUESTION = "What is the capital of France?"
SHOWN = "http://127.0.0.1:8081"  # as in the README
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
    """A command and its output."""

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


@contextmanager
def site() -> Iterator[Gateway]:
    """Run a gateway that starts two small models when requests name them."""
    program = servers.build("llama-2026", servers.terminal())
    model = smollm2.fetch(servers.terminal())
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        (models / "smollm2.gguf").symlink_to(model)
        (models / "tinychat.gguf").symlink_to(servers.ROOT / "models" / "tinychat-llama.gguf")
        (Path(folder) / "llama-server").symlink_to(program)
        env = {"PATH": f"{folder}:{os.environ['PATH']}", "SLOTPROXY_LOCAL_EMBEDDINGS": "off"}
        settings = {"models_dir": str(models), "memory": "1GiB", "data": str(Path(folder) / "data")}
        settings |= {"sampling": SAMPLING, "chat_template": "chatml"}  # as `make run`
        settings["log_format"] = "text"  # as on a terminal
        file = Path(folder) / "slotproxy.toml"
        file.write_text("".join(f"{key} = {json.dumps(settings[key])}\n" for key in settings))
        gateway = Gateway(["--config", str(file)], Path(folder) / "gateway.log", env=env)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.kill()


def record(file: Path) -> None:
    """Record a session: the start of a gateway as it was logged, a question in the terminal, one in
    Anthropic's form, and the table of models. The addresses are those of the README."""
    with site() as gateway:
        started = next(row for row in gateway.log.splitlines() if " listening on " in row)
        turns = [
            Turn("slotproxy --config slotproxy.toml &", started),
            _run(gateway, "chat", "smollm2", QUESTION),
            _curl(gateway, "/v1/messages", ".content[0].text"),
            _run(gateway, "ps"),
        ]
        address = gateway.url
    shown = [Turn(turn.command, turn.output.replace(address, SHOWN)) for turn in turns]
    file.write_text(svg([*lines(shown)], "slotproxy in a terminal"), encoding="utf-8")


def _run(gateway: Gateway, *words: str) -> Turn:
    """Run a command of slotproxy, as the picture says."""
    command = [sys.executable, "-m", "proxy", *words, "--url", gateway.url]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=120
    )
    return Turn(f"slotproxy {shlex.join(words)}", done.stdout.decode())


def _curl(gateway: Gateway, path: str, wanted: str) -> Turn:
    """Ask with curl, and take a part of the answer with jq."""
    messages = [{"role": "user", "content": "What is the capital of Italy?"}]
    body = json.dumps({"model": "smollm2", "max_tokens": 64, "messages": messages})
    command = ["curl", "-s", f"{gateway.url}{path}", "-d", body]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    part = subprocess.run(["jq", "-r", wanted], input=answer, capture_output=True, check=True)
    return Turn(f"curl -s {SHOWN}{path} -d '{body}' | jq -r {wanted}", part.stdout.decode().strip())


if __name__ == "__main__":
    record(servers.ROOT / "docs" / "images" / "terminal.svg")
