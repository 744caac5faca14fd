"""Headings of columns that say when they were measured.

A server that is not built here has its column from the last time when somebody ran it, and the
heading tells the reader which day that was.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable

_DAY = re.compile(r" \(run \d{4}-\d\d-\d\d\)$")


def without_day(heading: str) -> str:
    return _DAY.sub("", heading)


def headings(
    titles: Iterable[str], before: Iterable[str], measured: Iterable[str], today: datetime.date
) -> list[str]:
    """The headings of the columns `titles`: those of `before`, and today's day for the columns that
    were `measured`."""
    known = {without_day(heading): heading for heading in before}
    known |= {title: f"{title} (run {today})" for title in measured}
    return [known.get(title, title) for title in titles]
