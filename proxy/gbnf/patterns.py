"""The automata of patterns, in a cache that grammars and validation share, and the patterns of JSON
schema formats that are regular.

Sources: RFC 3339 for date, time and date-time, RFC 4122 for uuid, RFC 2673 for ipv4, and the
dot-atom form of RFC 5321 for email, which is the form in common use. Dates must exist: 29 February
only in leap years, no leap seconds, no year 0.
"""

from __future__ import annotations

from .automaton import Automaton, compile_regex
from .regex import read_pattern

MEMORY = 16 << 20  # bytes of cached automata
_STATE, _EDGE = 80, 200  # approximate bytes of each

_CENTURY_LEAP = r"(?:0[48]|[2468][048]|[13579][26])"
_LEAP = rf"(?:[0-9][0-9]{_CENTURY_LEAP}|{_CENTURY_LEAP}00)"
_YEAR = r"(?:[1-9][0-9]{3}|0(?:[1-9][0-9]{2}|0(?:[1-9][0-9]|0[1-9])))"
_DAY = (
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = rf"(?:{_YEAR}-{_DAY}|{_LEAP}-02-29)"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_CLOCK}:[0-5][0-9](?:\.[0-9]{{1,9}})?(?:Z|[+-]{_CLOCK})"
_HEX = "[0-9a-fA-F]"
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"

FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "uuid": f"^{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}$",
    "email": rf"^{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*$",
    "ipv4": rf"^(?:{_BYTE}\.){{3}}{_BYTE}$",
}
"""Patterns by format name. All other formats are unsupported."""

_kept: dict[str, tuple[Automaton, int]] = {}  # least recently used first


def automaton_of(pattern: str) -> Automaton:
    """The strings in which the pattern is found. Raises PatternError and TooManyStatesError."""
    known = _kept.pop(pattern, None)
    if known is None:
        made = compile_regex(read_pattern(pattern))
        edges = sum(map(len, made.transitions))
        known = made, 4 * len(pattern) + _STATE * len(made.transitions) + _EDGE * edges
    _kept[pattern] = known
    kept = list(_kept.items())
    room = MEMORY - sum(size for _, (_, size) in kept)
    for oldest, (_, size) in kept:
        if room >= 0:
            break
        _kept.pop(oldest, None)  # another thread may have removed it
        room += size
    return known[0]
