"""What ``slotproxy COMMAND`` does. Each command is imported when it is called."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping

from ..config import Settings


def run(command: str, own: Namespace, settings: Settings) -> int:
    """Carry out a command with its `own` arguments. Returns the exit code."""
    if command in ("backup", "restore"):
        return _keep(command, own, settings)
    from . import doctor

    return doctor.main(settings, print, as_json=own.json)


def init(own: Namespace, environ: Mapping[str, str]) -> int:
    """Write the first settings file; there need not be any settings before."""
    from . import initialize

    try:
        print(initialize.write(own.file, _always if own.force else agree, environ))
    except initialize.InitError as error:
        return _failed(str(error))
    return 0


def _keep(command: str, own: Namespace, settings: Settings) -> int:
    try:
        from ..store.archive import BackupError
        from . import backup
    except ImportError:
        return _failed(f"{command} requires pip install slotproxy[knowledge]")
    try:
        if command == "backup":
            print(backup.backup(settings, own.file, force=own.force))
        else:
            print(backup.restore(settings, own.file, _always if own.force else agree))
    except BackupError as error:
        return _failed(str(error))
    return 0


def agree(question: str) -> bool:
    """Ask on the terminal. Without one, the answer is no."""
    if not sys.stdin.isatty():
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _always(question: str) -> bool:
    return True


def _failed(why: str) -> int:
    print(f"slotproxy: {why}", file=sys.stderr)
    return 1
