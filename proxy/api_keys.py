"""API keys: their names, the file they stand in, and what a set of them must fulfil.

All that a client leaves here belongs to the *name* of its key, and so do an admin's rights. A key
without a name is named by a digest of its secret, never by its place: when a line is deleted, the
others keep what is theirs. Imports nothing of the web: see proxy/config.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2s
from pathlib import Path
from typing import Literal

import msgspec

_FIELDS = ("group=", "priority=")
_BY_PLACE = re.compile(r"key-[0-9]+|.+:[0-9]+")


class Secret(str):
    """Text that does not show itself: ``repr`` is masked, ``str`` is the secret."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(***)"


class ApiKey(msgspec.Struct, frozen=True):
    """A key a client may show. ``name`` owns all that is kept for it, and stands in the log. Keys
    of one ``group`` share what slots hold, a key without one shares with nobody; ``priority`` is
    its class in the queue. ``former`` is the name that earlier versions gave a key without one, by
    its place; else empty."""

    name: str
    secret: Secret
    group: str = ""
    priority: Literal["high", "normal", "low"] = "normal"
    former: str = ""

    @property
    def cache_group(self) -> str:
        """The group, or one of the key's own: no group in a file has a space in its name."""
        return self.group or f"key {self.name}"


def checked(value: str) -> Secret:
    """Raises ValueError for what cannot be a key. The key is never part of a message."""
    # A key travels in a header: anything else could never match, or not in every client.
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError("a key is made of visible ASCII characters without spaces")
    return Secret(value)


def unnamed(secret: Secret, former: str, **more: str) -> ApiKey:
    """A key named by its secret: `key-` and 12 hexadecimal digits."""
    digest = blake2s(secret.encode(), digest_size=6, person=b"key name").hexdigest()
    return ApiKey(f"key-{digest}", secret, former=former, **more)  # type: ignore[arg-type]


def read(text: str, path: str) -> tuple[ApiKey, ...]:
    """The keys of a file. Raises ValueError, with the number of the line."""
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        more = dict(word.split("=", 1) for word in words if word.startswith(_FIELDS))
        words = [word for word in words if not word.startswith(_FIELDS)]
        if not 1 <= len(words) <= 2 or more.get("priority", "low") not in ("high", "normal", "low"):
            raise ValueError(
                f"{path}, line {number}: expected KEY or NAME KEY, then group=NAME, "
                "priority=high|normal|low"
            )
        try:
            secret = checked(words[-1])
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if len(words) == 2:
            keys.append(ApiKey(words[0], secret, **more))  # type: ignore[arg-type]
        else:
            keys.append(unnamed(secret, f"{Path(path).name}:{number}", **more))
    if not keys:
        # Going on would serve everybody, which is not what a key file is for.
        raise ValueError(f"{path} holds no key")
    return tuple(keys)


def conflict(keys: Sequence[ApiKey]) -> str:
    """Why these cannot be used together, "" where they can."""
    names: set[str] = set()
    secrets: dict[str, str] = {}
    for key in keys:
        if key.name in names:
            return (
                f"two keys are named {key.name!r}: data belong to a key's name, so each needs a "
                "name of its own"
            )
        if key.secret in secrets:
            return f"{secrets[key.secret]!r} and {key.name!r} are the same key: remove one"
        names.add(key.name)
        secrets[key.secret] = key.name
    return ""


def no_such_admin(name: str, keys: Sequence[ApiKey]) -> str:
    """Why `name` is no admin, "" where it is a key's name."""
    if any(key.name == name for key in keys):
        return ""
    for key in keys:
        if key.former == name:
            return (
                f"{name!r} is the place of a key, which changes when keys do: write {key.name!r}, "
                "or name the key in --api-key-file"
            )
    known = ", ".join(repr(key.name) for key in keys) or "there are no keys"
    return f"no key is named {name!r}: {known}"


def renamed(keys: Sequence[ApiKey]) -> Mapping[str, str]:
    """What earlier versions called the keys without a name, by their place, and what they are
    called now. A key that was given such a name on purpose keeps it, and what is under it."""
    names = {key.former: key.name for key in keys if key.former}
    return names | {key.name: key.name for key in keys if not key.former}


def by_place(name: str) -> bool:
    """Whether a name has the form that earlier versions gave to keys without one."""
    return _BY_PLACE.fullmatch(name) is not None
