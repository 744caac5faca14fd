"""The browser of the tests and of the screenshots: Debian's chromium, or one that is there.

``python -m tools.browser`` installs it where that can be done without asking (apt-get, as root or
with a sudo that wants no password) and says why where not: the tests that need it are skipped then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A font for each language: without one of Chinese every picture of it shows empty boxes.
PACKAGES = ("chromium", "fonts-dejavu-core", "fonts-noto-cjk")
OFFLINE = (
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


def find() -> str | None:
    """The program; SLOTPROXY_CHROMIUM names one."""
    named = os.environ.get("SLOTPROXY_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


def install() -> str | None:
    """See that there is one. Gives the reason why there is none, None for success."""
    if find():
        return None
    if not shutil.which("apt-get"):
        return "no chromium, and no apt-get to install it with: set SLOTPROXY_CHROMIUM"
    before = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if before and not shutil.which("sudo"):
        return "no chromium: apt-get install chromium, as root"
    for words in (("update",), ("install", "-y", "--no-install-recommends", *PACKAGES)):
        done = subprocess.run(
            [*before, "apt-get", *words],
            capture_output=True,
            text=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason given"]
            return f"no chromium: apt-get {words[0]}: {said[-1]}"
    return None if find() else "no chromium, though apt-get installed it"


def launch(playwright: Playwright, program: str) -> Browser:
    """Start it, without a window and without the world."""
    return playwright.chromium.launch(
        executable_path=program,
        # In a container, as root, chromium's own sandbox cannot be made.
        chromium_sandbox=os.geteuid() != 0,
        args=[*OFFLINE],
    )


def main() -> int:
    reason = install()
    if reason:
        print(f"{reason}; the tests in a browser will be skipped", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
