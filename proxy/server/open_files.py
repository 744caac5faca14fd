"""The limit on open files: raised to what the system allows, and how many connections fit in it."""

from __future__ import annotations

import contextlib
from typing import Any

# Files other than client connections: model servers, databases, pipes, logs, modules.
FOR_OTHERS = 100
# The maximum number of connections. Each takes some 20 to 30 kB.
MOST_CONNECTIONS = 8192
# A hard limit may be "infinite", which some systems refuse as a soft one.
_MOST_FILES = 1 << 20


def raise_limit() -> int:
    """Raise the soft limit to the hard one. Returns it; Windows has none."""
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
    """The number of connections to allow with so many open files."""
    return max(16, min(wanted, files - FOR_OTHERS))
