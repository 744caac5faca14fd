"""``slotproxy`` and ``python -m proxy``: read the settings and serve, or do what a command says."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence

from proxy import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop. 2 when a setting cannot be used, after one line that names it."""
    if argv is None:  # the process is ours
        argv = sys.argv[1:]
        gc.set_threshold(100_000)  # the modules that are imported now are no garbage
    if [*argv] == ["--version"]:  # at once
        print("slotproxy", __version__)
        return 0
    # What a command does without is imported late.
    from proxy import config
    from proxy.config import command_line
    from proxy.config.checks import programs

    command, flags = command_line.split(argv)
    try:
        if command:
            own, flags = command_line.of_command(command, flags)
        if command == "init":
            from proxy.app import commands

            return commands.init(own, os.environ)
        settings = config.load(flags, os.environ)
        if command in command_line.TALK:
            from proxy import terminal

            return _printed(lambda: terminal.run(command, own, settings))
        if not command:
            programs(settings)
    except config.SettingsError as error:
        from proxy.runtime.logs import say

        say(str(error))
        return 2
    if command:
        from proxy.app import commands

        return _printed(lambda: commands.run(command, own, settings))
    from proxy.server import serve

    return serve.run(settings, lambda: config.load(flags, os.environ))


def _printed(work: Callable[[], int]) -> int:
    """Carry out a command. Who reads its output may stop early, as `head` does."""
    try:
        code = work()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
