"""Runs a program that ends with the process that started it: ``python leash.py PARENT PROGRAM …``.

The kernel kills this process as soon as the thread that started it ends (PR_SET_PDEATHSIG of
prctl(2)); that setting survives exec. It imports nothing of the package.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
CANNOT_START = 127  # the exit code of a shell for this


def end_with_parent() -> None:
    """Have Linux kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main(argv: Sequence[str]) -> int:
    """Become the program. Returns an exit code if that fails."""
    parent, words = int(argv[0]), list(argv[1:])
    end_with_parent()
    if os.getppid() != parent:
        return CANNOT_START  # it ended before the setting
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec keeps that
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        print(f"cannot start {words[0]}: {error.strerror}", file=sys.stderr, flush=True)
    return CANNOT_START


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
