"""``slotproxy`` and ``python -m proxy``: read the settings, serve."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from proxy import config
from proxy.server import serve


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop. 2 when a setting cannot be used, after one line that names it."""
    flags = sys.argv[1:] if argv is None else argv
    try:
        settings = config.load(flags, os.environ)
    except config.SettingsError as error:
        serve.say(str(error))
        return 2
    return serve.run(settings, lambda: config.load(flags, os.environ))


if __name__ == "__main__":
    sys.exit(main())
