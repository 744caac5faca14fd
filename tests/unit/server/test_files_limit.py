"""The number of connections within the limit of open files."""

from __future__ import annotations

import sys

import pytest

from proxy.server.serve import FOR_OTHERS, MOST_CONNECTIONS, connections, raise_limit


@pytest.mark.parametrize(
    ("files", "wanted", "expected"),
    [
        (1024, MOST_CONNECTIONS, 924),
        (MOST_CONNECTIONS + FOR_OTHERS, MOST_CONNECTIONS, MOST_CONNECTIONS),
        (MOST_CONNECTIONS + FOR_OTHERS - 1, MOST_CONNECTIONS, MOST_CONNECTIONS - 1),
        (1 << 20, MOST_CONNECTIONS, MOST_CONNECTIONS),
        (1 << 20, 500, 500),
        (50, MOST_CONNECTIONS, 16),
    ],
)
def test_connection_limit_fits_the_open_file_limit(files: int, wanted: int, expected: int) -> None:
    assert connections(files, wanted) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_open_file_limit_is_raised_as_far_as_allowed() -> None:
    import resource

    limit = raise_limit()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert limit == soft
    assert soft == hard or hard == resource.RLIM_INFINITY
