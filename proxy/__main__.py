"""``slotproxy`` and ``python -m proxy``: read the settings, serve. ``slotproxy doctor`` takes the
same settings and checks them, the backends and the storage."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from proxy import config
from proxy.server import serve


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop. 2 when a setting cannot be used, after one line that names it."""
    flags = sys.argv[1:] if argv is None else argv
    examines = list(flags[:1]) == ["doctor"]
    as_json = examines and "--json" in flags
    if examines:
        flags = [flag for flag in flags[1:] if flag != "--json"]
    try:
        settings = config.load(flags, os.environ)
    except config.SettingsError as error:
        serve.say(str(error))
        return 2
    if examines:
        from proxy.app import doctor  # imported late: the server starts without it

        return doctor.main(settings, print, as_json=as_json)
    return serve.run(settings, lambda: config.load(flags, os.environ))


if __name__ == "__main__":
    sys.exit(main())
