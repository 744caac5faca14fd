"""The order in which everything ends, and what happens to what does not."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from proxy.runtime.life import Life, Step

ORDER = "batches, the ledger, limits, tools, traces, models, backends, shared tables, the database"


def test_steps_are_in_their_order_and_the_last_one_added_is_first_within() -> None:
    life, seen = Life(), list[str]()
    for step in reversed(Step):
        for number in (1, 2):
            life.on_close(step, partial(seen.append, f"{step.label} {number}"))
    life.on_leave.append(partial(seen.append, "leave"))
    life.close()
    life.close()
    models = ["models 2", "models 1"]  # they are told first
    rest = [f"{label} {n}" for label in ORDER.split(", ") for n in (2, 1) if label != "models"]
    assert seen == ["leave", *models, *rest]


def test_step_before_that_of_the_models_has_its_time() -> None:
    life, seen = Life(), list[str]()

    def slow() -> None:
        time.sleep(0.5)
        seen.append("ledger")

    life.on_close(Step.LEDGER, slow)
    life.on_close(Step.MODELS, partial(seen.append, "models"))
    life.on_close(Step.DATABASE, partial(seen.append, "database"))
    life.close()
    assert seen == ["models", "ledger", "database"]


def test_failing_or_endless_step_costs_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    life, seen, never = Life(), list[str](), threading.Event()

    def fail() -> None:
        raise RuntimeError("nobody foresaw it")

    monkeypatch.setattr(Step.TOOLS, "seconds", 0.05)
    life.on_close(Step.LEDGER, fail)
    life.on_close(Step.TOOLS, never.wait)
    life.on_close(Step.DATABASE, partial(seen.append, "database"))
    began = time.monotonic()
    life.close()
    never.set()
    assert seen == ["database"]
    assert time.monotonic() - began < 20
    assert "closing the ledger failed" in caplog.text
    assert "tools took too long and was left behind" in caplog.text
