"""Runs llama.cpp's own server tests against a running server.

They are in the sources of llama-2026 (vendor/llama.cpp/tools/server/tests) and use a running server
if DEBUG_EXTERNAL is set: llama-server itself, or slotproxy in front of one. Flags and models that
single tests require are then not set, so many tests fail on any server: the result
is the difference between two runs.

``python -m tools.upstream_suite run`` starts both servers, runs the tests on llama-server directly
and through slotproxy, and prints the tests that fail only through slotproxy.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

from tools import building, made_up_model, servers
from tools.processes import Gateway, ModelServer

RECIPE = servers.RECIPES["llama-2026"]
TESTS = "/vendor/llama.cpp/tools/server/tests/"
SERVER_FLAGS = "-b 32 -n 64 --seed 42 --slots --metrics --jinja".split()
SERVER_SIZE = {"slots": 2, "ctx": 1024}
ORIGINS = ("localhost", "web.mydomain.fr", "origin")  # as in the CORS tests
GATEWAY_FLAGS = (
    "--metrics",
    "--no-local-embeddings",
    *(word for origin in ORIGINS for word in ("--cors-origins", origin)),
)
SECONDS = 400  # timeout of a run

# Modules of other packages that the tests only need to download models, which is disabled here.
STAND_INS = {
    "wget.py": "def download(url, out=None):\n    raise OSError('nothing is fetched here')\n",
    "filelock.py": "from contextlib import nullcontext\n\n\ndef FileLock(path):\n"
    "    return nullcontext()\n",
}
# A proxy that refuses connections, so that requests to the internet fail immediately.
NOWHERE = "http://127.0.0.1:9"


def folder(progress: building.Progress = print) -> Path:
    """Return the folder of the tests; fetch them if they are not in the cache. Raises
    ``BuildError``."""
    name = f"{RECIPE.version}-{building.digest(RECIPE.sha256, STAND_INS)}"
    place = building.cache() / "upstream-suite" / name

    def make(work: Path, log: Path) -> Path:
        progress(f"llama.cpp's tests: fetching llama-cpp-python {RECIPE.version}")
        archive = servers.fetch(RECIPE, work, log)
        with tarfile.open(archive) as tar:
            wanted = [entry for entry in tar.getmembers() if TESTS in f"{entry.name}/"]
            tar.extractall(work / "source", members=wanted, filter="data")
        (source,) = (work / "source").glob(f"*{TESTS}")
        for stand_in, text in STAND_INS.items():
            (source / stand_in).write_text(text)
        return source

    building.once(place, "llama.cpp's tests", make, progress)
    return place


def run(tests: Path, url: str, work: Path, *more: str) -> dict[str, str]:
    """Run the tests in ``tests`` on the server at ``url``; return "passed", "failed" or "skipped"
    for each (``unit/test_x.py::test_y[z]``). ``work`` is a folder for a writable copy of the tests;
    ``more`` is passed to pytest. Raises ``RuntimeError`` if the tests could not be run."""
    place = work / "tests"
    shutil.copytree(tests, place)
    report, log = work / "report.xml", work / "pytest.log"
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "SLOTPROXY"))}
    environ |= {
        "DEBUG_EXTERNAL": "1",
        "PORT": url.rpartition(":")[2],
        "PYTHONPATH": str(place),
        "http_proxy": NOWHERE,
        "https_proxy": NOWHERE,
        "no_proxy": "127.0.0.1,localhost,::1",
    }
    # Slow tests need models from a hub.
    own = [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-m",
        "not slow",
        "-q",
        "--tb=short",
        f"--junitxml={report}",
    ]
    own += ["-o", "junit_family=xunit1", "--timeout=60"]
    with log.open("wb") as out:
        subprocess.run(
            [sys.executable, "-m", "pytest", *own, *more, "unit"],
            cwd=place,
            env=environ,
            stdout=out,
            stderr=out,
            timeout=SECONDS,
            check=False,
        )
    if not report.is_file():
        raise RuntimeError(f"the tests did not run:\n{log.read_text(errors='replace')[-2000:]}")
    return _outcomes(report)


def _outcomes(report: Path) -> dict[str, str]:
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        failed = kinds & {"failure", "error"}
        outcome = "failed" if failed else "skipped" if "skipped" in kinds else "passed"
        file = case.get("classname", "").replace(".", "/")
        outcomes[f"{file}.py::{case.get('name')}"] = outcome
    return outcomes


Pair = tuple[dict[str, str], dict[str, str]]


def both(direct: str, through: str, work: Path, *more: str) -> Pair:
    """Run the tests on two servers in parallel and return both outcomes."""
    tests = folder()
    places = [work / "direct", work / "through"]
    for place in places:
        place.mkdir(parents=True)

    def run_at(url: str, place: Path) -> dict[str, str]:
        return run(tests, url, place, *more)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run_at, (direct, through), places)
    return first, second


def lost(direct: dict[str, str], through: dict[str, str]) -> set[str]:
    """Return the tests that pass only directly."""
    return {test for test, how in direct.items() if how == "passed" != through.get(test)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.upstream_suite", description=__doc__)
    parser.add_argument("do", choices=["fetch", "run"])
    parser.add_argument("more", nargs="*", help="arguments for pytest, after --")
    args = parser.parse_args(argv)
    try:
        tests = folder(building.terminal())
        binary = servers.build("llama-2026", building.terminal()) if args.do == "run" else None
    except building.BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(tests)
    if binary is not None:
        _compare(binary, args.more)
    return 0


def _compare(binary: Path, more: Sequence[str]) -> None:
    work = Path(tempfile.mkdtemp(prefix="upstream-suite-"))
    model = made_up_model.cached()
    started = [
        ModelServer(name, binary, model, work / f"{name}.log", **SERVER_SIZE, extra=SERVER_FLAGS)
        for name in ("direct", "behind")
    ]
    gateway = Gateway(("--llama-api", started[1].url, *GATEWAY_FLAGS), work / "gateway.log")
    try:
        for server in started:
            server.start()
        gateway.start()
        direct, through = both(started[0].url, gateway.url, work, *more)
    finally:
        gateway.stop()
        for server in started:
            server.kill()
    passed = [test for test, how in direct.items() if how == "passed"]
    missing = sorted(lost(direct, through))
    print(
        f"{len(direct)} tests, {len(passed)} pass directly, {len(passed) - len(missing)} of them "
        f"through slotproxy; logs in {work}"
    )
    for test in missing:
        print(f"- {test}")


if __name__ == "__main__":
    sys.exit(main())
