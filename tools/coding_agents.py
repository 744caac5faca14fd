"""Installs the coding agents that the tests run as clients: Codex and Claude Code.

Both are npm packages of programs for each system, together 640 MB.
``python -m tools.coding_agents`` installs the versions of requirements/coding-agents.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tools import building, npm

NAME = "coding-agents"


def find(program: str) -> Path | None:
    """Return the program, ``codex`` or ``claude``, if it is installed."""
    path = npm.folder(NAME) / "node_modules" / ".bin" / program
    return path if path.exists() else None


if __name__ == "__main__":
    try:
        # Claude Code's script puts the program for this system in its place.
        npm.install(NAME, scripts=True, progress=building.terminal())
    except building.BuildError as error:
        sys.exit(str(error))
