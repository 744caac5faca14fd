"""Installs and starts the OpenID provider of the tests: panva's certified `oidc-provider`.

It runs on node and is installed by npm, with the exact versions and hashes of
requirements/oidc-provider. It checks what a provider must: PKCE, redirect addresses, secrets and
codes that are used once. (The providers for tests on PyPI ignore PKCE.)

``python -m tools.oidc_provider`` installs it, and says why it cannot if node or npm is missing.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from tools import building, servers
from tools.processes import Child, ask

LOCK = servers.ROOT / "requirements" / "oidc-provider"
SCRIPT = servers.ROOT / "tests" / "oidc_provider.mjs"
SECONDS = 30.0  # until it answers
FILES = (LOCK / "package.json", LOCK / "package-lock.json", SCRIPT)


def folder() -> Path:
    """Return the folder of the provider, installed or not."""
    return building.cache() / "oidc-provider" / building.digest(*map(Path.read_bytes, FILES))


def find() -> Path | None:
    """Return the script that runs the provider, or None."""
    script = folder() / SCRIPT.name
    return script if script.is_file() and shutil.which("node") else None


def install(progress: building.Progress = print) -> None:
    """Install the provider unless it is there. Raises ``BuildError``."""

    def make(work: Path, log: Path) -> Path:
        place = work / "provider"
        place.mkdir()
        for file in FILES:
            shutil.copy(file, place)
        npm = shutil.which("npm")
        if npm is None:
            raise building.BuildError("npm is not installed")
        command: list[str | Path] = [
            npm,
            "ci",
            "--prefix",
            place,
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
        ]
        building.run(command, log, "oidc-provider")
        return place

    building.once(folder(), "oidc-provider", make, progress, needs_compiler=False)


class Provider(Child):
    """The provider on a port of 127.0.0.1, with a client that may come back to ``redirect_uri``.
    Everybody may sign in there, with any password."""

    def __init__(self, script: Path, port: int, redirect_uri: str, log: Path) -> None:
        self.issuer = f"http://127.0.0.1:{port}"
        super().__init__(["node", str(script), self.issuer, redirect_uri], log)

    def start(self) -> None:
        self.launch()
        end = time.monotonic() + SECONDS
        while ask(f"{self.issuer}/.well-known/openid-configuration")[0] != 200:
            if not self.alive or time.monotonic() > end:
                raise self.fail("did not start")
            time.sleep(0.05)


if __name__ == "__main__":
    try:
        install(building.terminal())
    except building.BuildError as error:
        print(f"no OpenID provider, so its tests are skipped: {error}", file=sys.stderr)
