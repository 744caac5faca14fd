"""Runs the compliance suite of Open Responses (github.com/openresponses/openresponses) against a
server.

    python -m tools.open_responses fetch
    python -m tools.open_responses run http://127.0.0.1:8081

No package has the suite: it is fetched with git from GitHub, or from the repository or checkout
named by ``OPEN_RESPONSES_SRC``, at a fixed commit. npm installs what it imports, and
``tools.mcp_conformance`` its Node. Where one of these is missing, its tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

from . import building, mcp_conformance, npm

NAME = "open-responses"
COMMIT = "92c12d96d7b61d6d15e2214daa5e9c6000ab6e1c"
SOURCE = "https://github.com/openresponses/openresponses"
SOURCE_VARIABLE = "OPEN_RESPONSES_SRC"
KEY_VARIABLE = "OPENRESPONSES_API_KEY"  # read by the suite
PATIENCE = 300  # seconds for all tests


def _folder() -> Path:
    return building.cache() / f"{NAME}-{COMMIT[:7]}-{npm.folder(NAME).name}"


def find() -> Path | None:
    """Return the folder of the suite if it can run."""
    return _folder() if _folder().is_dir() and mcp_conformance.find() else None


def fetch(progress: building.Progress = print) -> None:
    """Fetch the suite and its dependencies, if they are not in the cache. Raises ``BuildError``."""
    if why := mcp_conformance.install():
        raise building.BuildError(why)
    npm.install(NAME, scripts=False, progress=progress)

    def make(work: Path, log: Path) -> Path:
        if shutil.which("git") is None:
            raise building.BuildError("git is not installed")
        source = os.environ.get(SOURCE_VARIABLE) or SOURCE
        clone, archive, place = work / "clone", work / "suite.tar", work / "suite"
        git: list[str | Path] = ["git", "-C", clone]
        building.run(["git", "init", "--quiet", clone], log, NAME)
        building.run([*git, "fetch", "--quiet", "--depth", "1", source, COMMIT], log, NAME)
        wanted = ["bin/compliance-test.ts", "src/lib", "src/generated", "LICENSE"]
        building.run([*git, "archive", "--output", archive, COMMIT, *wanted], log, NAME)
        with tarfile.open(archive) as tar:
            tar.extractall(place, filter="data")
        (place / "node_modules").symlink_to(npm.folder(NAME) / "node_modules")
        (place / "package.json").write_text(json.dumps({"private": True, "type": "module"}))
        return place

    building.once(_folder(), NAME, make, progress, needs_compiler=False)


def run(url: str, model: str, key: str = "none") -> Mapping[str, list[str]]:
    """Run all tests of the suite with the model at the server; return the faults of each, none for
    a test that passed. Raises ``RuntimeError`` if the suite ends without a report."""
    suite, words = find(), mcp_conformance.find()
    assert suite is not None and words is not None, "it is installed"
    command = [words[0], "--import", "tsx", "bin/compliance-test.ts", "--json"]
    env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [*command, "--base-url", f"{url}/v1", "--model", model],
        cwd=suite,
        env={**env, KEY_VARIABLE: key},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    try:
        results = json.loads(done.stdout)["results"]
    except (ValueError, KeyError):
        raise RuntimeError(f"no report: {done.stdout[-2000:]}{done.stderr[-2000:]}") from None
    return {
        test["id"]: [] if test["status"] == "passed" else test.get("errors") or [test["status"]]
        for test in results
    }


def main(words: list[str]) -> int:
    if words == ["fetch"]:
        try:
            fetch(building.terminal())
        except building.BuildError as error:
            print(f"no Open Responses suite: {error}")
        return 0
    if words[:1] == ["run"] and len(words) in (2, 3):
        results = run(words[1], *(words[2:] or ["any"]))
        for name, faults in results.items():
            print(name, "; ".join(faults) or "passed")
        return int(any(results.values()))
    print(__doc__)
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
