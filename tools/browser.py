"""Finds, installs and starts chromium for the browser tests and the screenshots.

``python -m tools.browser`` installs it if that works without a prompt (apt-get, as root or with
passwordless sudo), and otherwise prints the reason. Tests that need a browser are then skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

# The same browser without its own windows: the tests take half the processor's time with it.
SHELL = "chromium-headless-shell"
NAMES = (SHELL, "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Fonts for both languages: without a Chinese font, screenshots show empty boxes.
FONTS = ("fonts-dejavu-core", "fonts-noto-cjk")
OFFLINE = (
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


def find() -> str | None:
    """Return the path of chromium, or None. SLOTPROXY_CHROMIUM overrides the search."""
    named = os.environ.get("SLOTPROXY_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


def install() -> str | None:
    """Install chromium's shell, or chromium where no package index has that. Returns None, or the
    reason why there is no browser."""
    if shutil.which(SHELL) or "SLOTPROXY_CHROMIUM" in os.environ:
        return None
    reason = "no apt-get to install it with: set SLOTPROXY_CHROMIUM"
    if shutil.which("apt-get"):
        _apt("update")
        reason = _apt("install", "-y", "--no-install-recommends", SHELL, *FONTS)
        if reason and not find():
            reason = _apt("install", "-y", "--no-install-recommends", "chromium", *FONTS)
    return None if find() else f"no chromium: {reason}"


def _apt(*words: str) -> str:
    """Run apt-get. Returns "", or why it failed."""
    before = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if before and not shutil.which("sudo"):
        return "apt-get needs root"
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Without a network, it fails soon.
    command = [*before, "apt-get", "-o", "Acquire::http::Timeout=30", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    output = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason given"]
    return f"apt-get {words[0]}: {output[-1]}" if done.returncode else ""


def launch(playwright: Playwright, program: str) -> Browser:
    """Start chromium, headless and without access to the internet."""
    return playwright.chromium.launch(
        executable_path=program,
        # chromium's own sandbox does not work as root in a container.
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
