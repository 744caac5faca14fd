"""``slotproxy ps`` and ``slotproxy top``: the models of a gateway, and its state each second."""

from __future__ import annotations

import os
import select
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .client import Client, TerminalError, line

PERIOD = 1.0  # seconds between two looks
HEADINGS = ("MODEL", "STATE", "SLOTS", "CONTEXT", "MEMORY", "UNLOADS", "SERVER")
NONE = "–"
PERCENTILES = ("LAST MINUTE", "10 %", "MEDIAN", "90 %", "99 %")
MEASURED = {
    "queue": "seconds in line",
    "first_token": "seconds to first token",
    "speed": "tokens/s an answer",
    "prompt_tokens": "prompt tokens",
}
BUSY, CACHED, EMPTY = "■", "▪", "·"
DRAWN = 64  # slots of a backend; more are counted
WAITING = 8  # waiting requests that are shown


def print_models(client: Client, own: Namespace) -> int:
    """`slotproxy ps`."""
    print("\n".join(_models(client)))
    return 0


def run(client: Client, own: Namespace) -> int:
    """`slotproxy top`: draw until q or Ctrl-C; without a terminal, print the state once."""
    if os.name == "nt" or not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("\n".join(picture(client)))
        return 0
    picture(client)  # an error at the start ends it, a later one is shown
    with _screen():
        while True:
            try:
                lines = picture(client)
            except TerminalError as error:
                lines = [line(error), "trying again …    q quits"]
            _draw(lines)
            is_pressed = select.select([sys.stdin], [], [], PERIOD)[0]
            if is_pressed and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b""):
                return 0


def picture(client: Client) -> list[str]:
    """The lines of the state now. Raises TerminalError."""
    status = client.get("/v1/slots")
    queue, minute, slots = status["queue"], status["minute"], status["backends"]
    share = f" ({minute['cached'] / minute['prompt']:.0%})" if minute["prompt"] else ""
    lines = [
        f"slotproxy at {client.url}    q quits",
        f"{status['running']} requests in flight, {len(queue)} waiting for a slot",
        f"last minute: {minute['requests']} requests, {sum(minute['errors'].values())} failed, "
        f"{minute['completion'] / 60:.1f} tokens/s in all, "
        f"{minute['cached']} prompt tokens saved{share}, "
        f"{sum(minute['evictions'].values())} evictions\n",
        *_columns(
            [PERCENTILES, *(_percentiles(minute[name], MEASURED[name]) for name in MEASURED)]
        ),
        "",
        *_models(client),
        f"\nSLOTS  {BUSY} busy  {CACHED} holds a conversation  {EMPTY} empty",
        *_columns([(line(row["model"]), _tiles(row["slots"])) for row in slots]),
    ]
    if queue:
        waiting = [(line(row["model"] or "any"), _time(row["waited"])) for row in queue[:WAITING]]
        lines += ["\nWAITING", *_columns(waiting)]
    return "\n".join(lines).split("\n")


def _percentiles(values: Mapping[str, float] | None, title: str) -> Sequence[str]:
    shown = (f"{values[at]:,.2f}" if values else NONE for at in ("p10", "p50", "p90", "p99"))
    return title, *shown


def _tiles(slots: Sequence[Mapping[str, Any]]) -> str:
    tiles = "".join(map(_tile, slots))
    if len(tiles) <= DRAWN:
        return tiles
    return "  ".join(f"{tiles.count(tile)} {tile}" for tile in (BUSY, CACHED, EMPTY))


def _tile(slot: Mapping[str, Any]) -> str:
    return BUSY if slot["state"] != "free" else CACHED if slot["held"] else EMPTY


def _models(client: Client) -> list[str]:
    """The table of models, and below it why some of them do not answer. Raises TerminalError."""
    backends = client.get("/v1/backends")["data"]
    running = {model["model"]: model for model in client.get("/running")["running"]}
    if not backends:
        return ["no models: start slotproxy with --llama-api URL or --models-dir DIR"]
    lines = _columns([HEADINGS, *(_row(row, running.get(row["model"])) for row in backends)])
    for row in backends:
        if row["error"] and "loaded" not in (row["status"], row["state"]):
            lines.append(f"{line(row['model'] or row['id'])}: {line(row['error'])}")
    return lines


def _row(backend: Mapping[str, Any], model: Mapping[str, Any] | None) -> Sequence[str]:
    state, memory, unloads = line(backend["status"] or backend["state"]), NONE, NONE
    slots = NONE if backend["slots"] is None else f"{backend['in_flight']}/{backend['slots']}"
    if model is not None:
        held = {"": model["memory"], " GPU": model["gpu_memory"]}
        memory = " + ".join(f"{_size(size)}{where}" for where, size in held.items() if size)
        left = model["unloads_in"]
        unloads = "pinned" if model["pinned"] else NONE if left is None else f"in {_time(left)}"
        state += f", {_time(model['wait'])}" if model.get("wait") else ""
    context, name = str(backend["n_ctx"] or NONE), backend["model"]
    server = NONE if backend["id"] == name else line(backend["id"])
    return line(name or NONE), state, slots, context, memory, unloads, server


def _size(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


@contextmanager
def _screen() -> Iterator[None]:
    """The terminal's other screen, which leaves what stood there before; keys come at once."""
    import termios  # not on Windows
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write("\x1b[?1049h\x1b[?25l")
        yield
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _draw(lines: Sequence[str]) -> None:
    """Draw over what is there, without a moment of an empty screen."""
    width, height = shutil.get_terminal_size()
    shown = (f"{text[: width - 1]}\x1b[K" for text in lines[: height - 1])
    sys.stdout.write("\x1b[H" + "\n".join(shown) + "\n\x1b[J")
    sys.stdout.flush()
