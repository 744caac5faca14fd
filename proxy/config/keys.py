"""API keys: their names, the key file, and the rules for a set of keys.

The data of clients belongs to the *name* of their key, and so do an administrator's rights. A key
without a name is named by a digest of its secret: if a line is deleted, the others keep their data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2s
from typing import Any, Literal

import msgspec

# An option behind the key, such as group=research. Keys in base 64 may end with `=`.
_OPTION = re.compile(r"[a-z_]+=([^=].*)?")
_FIRST = ("group=", "priority=", "on_overflow=")
_OVERFLOW = ("", "refuse", "compact")
# Names of the keys that are made at run time (accounts/records.py), whose data belongs to them.
_IN_STORE = re.compile(r"key_[0-9a-f]{24}")


class Secret(str):
    """Text that hides itself: ``repr`` is masked, ``str`` is the secret."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(***)"


class ApiKey(msgspec.Struct, frozen=True):
    """An API key. Its name owns its data and appears in the log."""

    name: str
    secret: Secret
    group: str = ""  # keys of one group share cached prompts, one without shares with no other
    priority: Literal["high", "normal", "low"] = "normal"  # its class in the queue
    on_overflow: Literal["", "refuse", "compact"] = ""  # overrides the setting, if it is not empty
    options: Mapping[str, str] = {}  # the other ones of its line in a file, as they stand
    place: str = ""  # that line

    @property
    def cache_group(self) -> str:
        """The group, or one of its own: no group in a key file has a space in its name."""
        return self.group or f"key {self.name}"


def checked(value: str) -> Secret:
    """Check a key. Raises ValueError, without the key in its message."""
    # A key is sent in a header, where other characters are not allowed or not portable.
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError("an API key may contain only visible ASCII characters and no spaces")
    return Secret(value)


def unnamed(secret: Secret, **more: Any) -> ApiKey:
    """A key named by its secret: `key-` and 12 hexadecimal digits."""
    digest = blake2s(secret.encode(), digest_size=6, person=b"key name").hexdigest()
    return ApiKey(f"key-{digest}", secret, **more)


def read(text: str, path: str) -> tuple[ApiKey, ...]:
    """The keys of a file. Raises ValueError with the number of the line."""
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            place = f"{path}, line {number}"
            try:
                keys.append(_of_line(line.split(), place))
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
    if not keys:
        # Without this error the API would be open, although a key file is configured.
        raise ValueError(f"{path} contains no API keys")
    return tuple(keys)


def _of_line(line: Sequence[str], place: str) -> ApiKey:
    words: list[str] = []
    options: dict[str, str] = {}
    for word in line:
        # The first word may be a key in the form of an option.
        is_first = not (words or options)
        if not _OPTION.fullmatch(word) or (is_first and not word.startswith(_FIRST)):
            words.append(word)
            continue
        name, _, value = word.partition("=")
        if name in options:
            raise ValueError(f"{name[:60]} is there twice")
        options[name] = value
    own = ("group", "priority", "on_overflow")
    more: dict[str, Any] = {name: options.pop(name) for name in own if name in options}
    is_valid = (
        1 <= len(words) <= 2
        # A line that begins with an option would be a key without it.
        and not (len(words) == 2 and _OPTION.fullmatch(words[0]))
        and more.get("priority", "low") in ("high", "normal", "low")
        and more.get("on_overflow", "") in _OVERFLOW
    )
    if not is_valid:
        raise ValueError(
            "expected KEY or NAME KEY, then options such as group=NAME, "
            "priority=high|normal|low, on_overflow=refuse|compact"
        )
    if options:
        more |= {"options": options, "place": place}
    secret = checked(words[-1])
    return ApiKey(words[0], secret, **more) if len(words) == 2 else unnamed(secret, **more)


def conflict(keys: Sequence[ApiKey]) -> str:
    """Why these keys cannot be used together, "" if they can."""
    names: set[str] = set()
    secrets: dict[str, str] = {}
    for key in keys:
        if _IN_STORE.fullmatch(key.name):
            return f"the key name {key.name!r} has the form of keys in the store: use another name"
        if key.name in names:
            return (
                f"the key name {key.name!r} is used twice: stored data belongs to a key's name, so"
                " names must be unique"
            )
        if key.secret in secrets:
            return f"{secrets[key.secret]!r} and {key.name!r} are the same key: remove one of them"
        names.add(key.name)
        secrets[key.secret] = key.name
    return ""
