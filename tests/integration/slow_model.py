"""A model server that writes a word each tenth of a second until its connection ends, for requests
that are still under way when something else happens, however slow the machine is.

It looks like a llama-server of 2026, loads as long as it is told, saves slots to files, and notes
in a file of its own how it is ended. A prompt with "BRIEF" is answered with one word.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests import scripted_server
from tools.processes import Child, held_port

PER_TOKEN = 50.0  # milliseconds to evaluate a token of a prompt: it pays to save a slot


class Handler(scripted_server.Handler):
    ready_at = 0.0
    slots = 2
    folder = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/health" and time.monotonic() < self.ready_at:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path == "/props":
            self.send(
                {
                    "total_slots": self.slots,
                    "chat_template": "{{ messages }}",
                    "default_generation_settings": {"n_ctx": 8192},
                    "modalities": {"vision": False, "audio": False},
                    "model_path": "slow.gguf",
                    "build_info": "b1-slow",
                }
            )
        else:
            super().do_GET()

    def do_POST(self) -> None:
        if not self.path.startswith("/slots/"):
            super().do_POST()
            return
        body = self.body()
        if not self.folder or not self.path.endswith("action=save"):
            self.send_response(400 if self.folder else 501)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        Path(self.folder, body["filename"]).write_bytes(b"x" * 1000)
        self.send({"n_saved": 4000, "n_written": 1000})

    def _complete(self, body: dict[str, Any]) -> None:
        prompt = len(body["prompt"]) // 4 + 1
        slot = {"id_slot": max(0, body.get("id_slot", 0))}
        brief = "BRIEF" in body["prompt"] or body.get("n_predict") == 1
        timings = {"cache_n": 0, "prompt_n": prompt, "prompt_ms": prompt * PER_TOKEN}
        end = {
            **slot,
            "content": "word ",
            "stop": True,
            "stop_type": "eos",
            "stopping_word": "",
            "tokens_predicted": 1,
            "tokens_evaluated": prompt,
            "truncated": False,
            "timings": {**timings, "predicted_n": 1, "predicted_ms": 100.0},
        }
        if not body.get("stream"):
            self.send(end)
            return
        self.begin_stream()
        try:
            for number in () if brief else itertools.count(1):  # nothing repeats itself
                self.send_event({**slot, "content": f"word{number} ", "stop": False})
                time.sleep(0.1)
            self.send_event(end)
            self.end_stream()
        except OSError:
            self.close_connection = True


class SlowModel(Child):
    """The server as a process."""

    def __init__(self, folder: Path, slots: int) -> None:
        port = held_port()
        words = [sys.executable, "-m", "tests.integration.slow_model", "--port", str(port)]
        words += ["--notes", str(folder / "notes"), "--slots", str(slots)]
        super().__init__(words, folder / "slow.log")
        self.url = f"http://127.0.0.1:{port}"


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--load", type=float, default=0.0, help="seconds")
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--slot-save-path", default="")
    options = parser.parse_args()
    Handler.ready_at = time.monotonic() + options.load
    Handler.slots, Handler.folder = options.slots, options.slot_save_path
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    server.daemon_threads = True

    def end(number: int, frame: object) -> None:
        with options.notes.open("a") as notes:
            notes.write(f"{signal.Signals(number).name}\n")
        sys.stdout.flush()
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, end)
    server.serve_forever()


if __name__ == "__main__":
    main()
