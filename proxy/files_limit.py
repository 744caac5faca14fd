"""How many files a process may open: raised to what the system allows, and what of it is left for
connections."""

from __future__ import annotations

import contextlib
from typing import Any

# Files that are no connections of clients: model servers, databases, pipes, logs, modules.
FOR_OTHERS = 100
# Connections at most. Each takes some 20 kB, and more than a few thousand is somebody's mistake.
MOST_CONNECTIONS = 4096
# A hard limit may say "infinite", which some systems refuse as a soft one.
_MOST_FILES = 1 << 20


def raise_limit() -> int:
    """Raise the soft limit to the hard one; the limit there is then. Systems without one (Windows)
    have no bound that matters here."""
    try:
        import resource
    except ImportError:
        return _MOST_FILES
    limit: Any = resource.RLIMIT_NOFILE
    soft, hard = resource.getrlimit(limit)
    for wanted in (hard, min(hard, _MOST_FILES), 10240):
        unlimited = wanted == resource.RLIM_INFINITY
        if not unlimited and soft != resource.RLIM_INFINITY and wanted > soft:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(limit, (wanted, hard))
                break
    soft = resource.getrlimit(limit)[0]
    return _MOST_FILES if soft == resource.RLIM_INFINITY else soft


def connections(files: int, wanted: int = MOST_CONNECTIONS) -> int:
    """How many connections there may be where so many files may be open."""
    return max(16, min(wanted, files - FOR_OTHERS))
