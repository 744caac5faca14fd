"""Busy slots, slots saved through the API, models, aliases and weights on real servers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fakes import key_file, wait_until
from tests.integration.asking import fetch
from tools.processes import ModelServer

from .conftest import StartGateway, StartServer

LEGACY = ("--chat-template", "legacy")
SYSTEM = "You know all about the rivers, the hills and the towns of a land far away. " * 6


def test_slot_is_busy_while_its_server_works_with_it(
    any_server: ModelServer, gateway: StartGateway
) -> None:
    running = gateway("--llama-api", any_server.url, "--slots", "2", *LEGACY)

    def busy() -> list[int]:
        slots = fetch(running.url, "/slots")[2]
        return [slot["backend_slot"] for slot in slots if slot["is_processing"]]

    assert [slot["backend_slot"] for slot in fetch(running.url, "/slots")[2]] == [0, 1]
    assert busy() == []
    # The second slot: what the first holds goes on there, so something new goes elsewhere.
    for number in range(2):
        body = {"prompt": f"{number} " * 40, "n_predict": 1800, "ignore_eos": True}
        reply: dict[str, Any] = {}
        thread = threading.Thread(
            target=lambda a=body, t=reply: t.update(fetch(running.url, "/completion", a)[2])
        )
        thread.start()
        seen: Counter[int] = Counter()
        while thread.is_alive():
            seen.update(busy())
            time.sleep(0.02)
        thread.join()
        assert seen
        if any_server.name != "llama-2026":  # which tells its slot at the end
            assert [slot for slot, _ in seen.most_common(1)] == [reply["slot_id"]]
        wait_until(lambda: busy() == [])


def test_slot_is_saved_and_restored_through_the_api(
    start_server: StartServer, gateway: StartGateway, tmp_path: Path
) -> None:
    place = tmp_path / "slots"
    place.mkdir()
    extra = ["--slot-save-path", str(place), "--cache-ram", "0"]
    server = start_server("llama-2026", slots=1, ctx=2048, extra=extra)
    keys = key_file(tmp_path, "boss secret-boss\nguest secret-guest\n")
    running = gateway(
        "--llama-api", server.url, "--api-key-file", keys, "--admins", "boss",
        "--slot-disk", "0", *LEGACY,
    )  # fmt: skip

    def act(action: str, key: str = "secret-boss", **body: str) -> tuple[int, Any]:
        status, _, reply = fetch(
            running.url, f"/slots/0?action={action}", body, {"Authorization": f"Bearer {key}"}
        )
        return status, reply

    def cached(text: str) -> int:
        body = {"prompt": text, "n_predict": 4, "temperature": 0}
        status, _, reply = fetch(
            running.url, "/completion", body, {"Authorization": "Bearer secret-boss"}
        )
        assert status == 200
        return int(reply["timings"]["cache_n"])

    assert cached(SYSTEM + "one") < 5
    status, reply = act("save", filename="mine.bin")
    assert status == 200
    assert reply["n"] > 50
    assert (place / "mine.bin").stat().st_size == reply["bytes"]
    assert act("save", "secret-guest", filename="mine.bin")[0] == 403
    assert act("save", filename="../mine.bin")[0] == 400
    assert act("erase")[0] == 200
    assert cached("2 " * 60) < 5  # nothing is left of it
    status, restored = act("restore", filename="mine.bin")
    assert status == 200
    assert restored["n"] == reply["n"]
    assert cached(SYSTEM + "one more") > 50
    assert act("restore", filename="nothing.bin")[0] >= 400
