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

from tools import building, npm, servers
from tools.processes import Child, ask

NAME = "oidc-provider"
SCRIPT = servers.ROOT / "tests" / "oidc_provider.mjs"
SECONDS = 30.0  # until it answers


def find() -> Path | None:
    """Return the script that runs the provider, or None."""
    script = npm.folder(NAME, SCRIPT) / SCRIPT.name
    return script if script.is_file() and shutil.which("node") else None


def install(progress: building.Progress = print) -> None:
    """Install the provider unless it is there. Raises ``BuildError``."""
    npm.install(NAME, SCRIPT, scripts=False, progress=progress)


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
