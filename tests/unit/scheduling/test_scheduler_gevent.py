"""Code under a scheduler's own lock never waits: the lock is native and reentrant per thread, so
it would let every other greenlet of the thread in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gevent", reason="gevent is not installed")

ROOT = Path(__file__).resolve().parents[3]

# Greenlets call every operation of a local and of a shared scheduler, whose log is lost and entry
# again meanwhile. At each switch of greenlets, none of these locks may be held.
SCRIPT = """
from gevent import monkey
monkey.patch_all()
import random, sys, threading, time
import gevent, greenlet
from proxy.runtime import locks
from proxy.scheduling import scheduler as module

made = []
def recorded(make):
    def record():
        made.append(make())
        return made[-1]
    return record
module.native_rlock = recorded(locks.native_rlock)

from proxy.runtime.cancel import Cancel
from proxy.errors import GatewayError
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.shared import SharedScheduler, follower
follower.native_rlock = module.native_rlock
from proxy.scheduling.state import BackendFacts
from tests.unit.scheduling.fakes import slot_request
from tests.unit.scheduling.test_shared_scheduler import FakeLog, Memory

switches, waited, done = [0], set(), []

def watch(event, args):
    switches[0] += 1
    for lock in made:
        if lock._is_owned() if hasattr(lock, "_is_owned") else lock.locked():
            waited.add(sys._getframe(1).f_code.co_qualname)

def user(scheduler, maker, number):
    draw = random.Random(number)
    for turn in range(12):
        cancel, prompt = Cancel(), "word " * draw.choice((9, 400, 4000)) + "go " * turn
        if draw.random() < 0.2:
            gevent.spawn_later(draw.random() / 50, cancel.cancel)
        try:
            request = slot_request(prompt, key=str(number % 3), group=str(number % 2))
            entry = scheduler.enter(request)
            if not isinstance(entry, Lease):
                gevent.sleep(0)
                scheduler.view("0", "1"), entry.place, scheduler.waiting
                if draw.random() < 0.2:
                    entry.leave()
                    continue
                entry = entry.wait(cancel)
            for step in entry.steps():
                entry.step_done(step, 100, 1000, 0.01)
            gevent.sleep(draw.random() / 100)
            if draw.random() < 0.8:
                entry.on_first_token(entry.slot.id)
                scheduler.on_last_token(entry)
            end = draw.choice(("whole", "whole", "whole", "cut", "busy", "failed", "unused"))
            outcome = Outcome(
                end=end, slot=entry.slot.id, prompt=50, cached=draw.randrange(50), completion=16,
                evaluating=0.01,
            )
            scheduler.leaks(entry, outcome)
            entry.release(outcome)
            done.append(number)
        except GatewayError:
            gevent.sleep(0.01)

def registry(scheduler, memory):
    for turn in range(10):
        files = BackendFacts(model="m", slots=0, cache_kind="files", release_delay=0.01)
        ram = BackendFacts(model="m", slots=2, pins=False, cache_kind="ram")
        scheduler.update("a", files, up=True)
        scheduler.update("b", BackendFacts(model="m", slots=2), up=True)
        scheduler.update("c", ram, up=True)
        gevent.sleep(0.02)
        scheduler.mark("b", up=False)
        memory.gone = turn % 4 == 2
        gevent.sleep(0.02)
        scheduler.in_flight("a"), scheduler.slots("c")
        scheduler.drain("c")
        gevent.sleep(0.02)
    memory.gone = False
    scheduler.update("b", BackendFacts(model="m", slots=2), up=True)

follower.REJOIN = 0.02
memory = Memory()
how = dict(queue_timeout=0.5, groups=True, disk=10**6)
alone = module.LocalScheduler(time.monotonic, max_queue=20, **how)
shared = SharedScheduler(FakeLog(memory), time.monotonic, version="1", **how)
assert shared.ready(10)
# The other threads of this process are gevent's own, and take no such lock.
greenlet.settrace(watch)
jobs = [gevent.spawn(registry, one, memory) for one in (alone, shared)]
jobs += [gevent.spawn(user, alone, alone, n) for n in range(30)]
jobs += [gevent.spawn(user, shared, alone, n) for n in range(10)]
gevent.joinall(jobs, raise_error=True)
greenlet.settrace(None)
shared.close()
assert alone.outstanding == alone.waiting == 0, (alone.outstanding, alone.waiting)
assert len(made) >= 7 and switches[0] > 1000 and len(done) > 100, (made, switches, len(done))
assert not waited, waited
print("ok")
"""


def test_no_greenlet_switch_happens_under_scheduler_lock() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.stdout.strip(), done.returncode) == ("ok", 0), done.stderr[-2000:]
