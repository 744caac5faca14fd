"""Validators of single values: each normalizes a value of the right type, or raises ValueError."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args
from urllib.parse import SplitResult, urlsplit

import msgspec

from ..core.mcp import pattern
from ..core.sampling import FIELDS, check
from ..errors import InvalidParameter
from .keys import Secret


class SettingsError(ValueError):
    """An invalid setting. The message is one line and names the setting."""


@contextmanager
def naming(what: object) -> Iterator[None]:
    """A ValueError becomes a SettingsError that says first of what it is."""
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"{what}: {error}") from None


# Tables of the file: [[model]], [[price]] and others.

T = TypeVar("T")
SHOWN = 200  # characters of a name in an error
# What llama-swap, other gateways and price lists call a field, in small letters only.
_OTHER_WORDS = """apibase:url baseurl:url checkendpoint:check cmd:command cmdstop:stop cwd:folder
    concurrencylimit:concurrency env:environment healthchecktimeout:start_timeout input:prompt
    output:completion proxy:url sendloadingstate:loading_state setparams:set stripparams:strip
    setparamsbyid:set_by_alias usemodelname:server_model"""
OTHER_WORDS = dict(pair.split(":") for pair in _OTHER_WORDS.split())


def tables(raw: Any, name: str, read: Callable[[dict[str, Any]], T]) -> tuple[T, ...]:
    """Each of the ``[[name]]`` tables, as `read` returns it. Raises ValueError that says which."""
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        raise ValueError(f"expected [[{name}]] tables")
    values = []
    for number, table in enumerate(raw, start=1):
        title = table.get("name") or table.get("model")
        is_named = isinstance(title, str) and title
        with naming(repr(title[:SHOWN]) if is_named else f"number {number}"):
            values.append(read(table))
    return tuple(values)


def of_table(kind: type[T], table: dict[str, Any]) -> T:
    """The struct of a table. Raises ValueError."""
    check_fields(table, kind)
    return msgspec.convert(table, kind)


def check_fields(value: Any, kind: Any) -> None:
    """Raises ValueError if a table, or one in it, has a field that its struct does not have."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
        for key, inner in value.items():
            if key not in fields:
                raise ValueError(no_field(key, fields))
            check_fields(inner, fields[key])
    for part in get_args(kind):  # of a list or an optional table
        for item in value if isinstance(value, list) else (value,):
            check_fields(item, part)


def no_field(key: str, names: Collection[str]) -> str:
    """Why a table has no field of this name."""
    other = OTHER_WORDS.get(re.sub("[^a-z]", "", key.lower()), "")
    near = [other] if other in names else difflib.get_close_matches(key, names, n=1)
    rest = f"; did you mean {near[0]!r}?" if near else f": expected one of {', '.join(names)}"
    return f"unknown field {key[:SHOWN]!r}{rest}"


def unescaped(value: str) -> str:
    # The escapes that the reference implementation handles in these flags; others stay unchanged.
    return value.replace("\\n", "\n")


def _address(value: str) -> SplitResult | None:
    """The parts of an HTTP address, None if it is none."""
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if valid else None


def url(value: str) -> str:
    parts = _address(value)
    if parts is None:
        raise ValueError(f"expected an address like http://127.0.0.1:8080, got {value!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a password would appear in logs; set api_key in a [[backend]]")
    if parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", value):
        raise ValueError(f"expected an address without query, fragment or spaces, got {value!r}")
    return value.rstrip("/")


def server(value: str) -> str:
    """A `url`, or a bare HOST:PORT with or without a path."""
    return url(f"http://{value}" if _BARE.match(value) else value)


_BARE = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]+(/|\Z)")


def mcp_url(value: str) -> str:
    try:
        return pattern(value)
    except ValueError as error:
        raise ValueError(f"{value!r} {error}") from None


def prefix(value: str) -> str:
    inner = value.strip("/")
    if not re.fullmatch(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*|", inner):
        raise ValueError(f"expected a path like /llm, got {value!r}")
    return f"/{inner}" if inner else ""


def origin(value: str) -> str:
    origin = value.rstrip("/")
    form = r"\*|[a-z][a-z0-9+.-]*://[A-Za-z0-9.:\[\]_-]+|[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
    if not re.fullmatch(form, origin):
        raise ValueError(
            f"expected *, an origin like https://chat.example.org or a host, got {value!r}"
        )
    return origin


def trusted_proxy(value: str) -> str:
    try:
        return value if value == "unix" else str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError(f"expected an address, a network or unix, got {value!r}") from None


def path(value: str) -> str:
    """Expand ~, which a shell does for a flag but not for a file or the environment."""
    return str(Path(value).expanduser()) if value.startswith("~") else value


def folder(value: str) -> str:
    return path(value)


def allowed_host(value: str) -> str:
    host = value.lower().removesuffix(".")
    host = host[1:] if host.startswith("*.") else host
    if not re.fullmatch(r"\*|\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*", host):
        raise ValueError(f"expected a name without port, as .example.org, or *, got {value!r}")
    return host


def state_url(value: str) -> Secret:
    """A URL for redis-py. It may contain a password, so no message shows it."""
    if not re.match(r"(rediss?|valkeys?|unix)://.", value):
        raise ValueError("expected redis://…, rediss://…, unix://…, valkey://… or valkeys://…")
    return Secret(re.sub("^valkey", "redis", value))


# The sampling fields that are a single number or a switch: others belong to one request.
_SAMPLERS = frozenset(
    name for name, field in FIELDS.items() if field.kind in ("number", "integer", "boolean")
)


def sampler(value: str) -> str:
    name, _, text = value.partition("=")
    name = name.strip()
    if name not in _SAMPLERS:
        near = difflib.get_close_matches(name, _SAMPLERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"expected NAME=VALUE, as temperature=0.2, got {value!r}{hint}")
    try:
        number = msgspec.json.decode(text.strip())
        return f"{name}={msgspec.json.encode(check(name, number)).decode()}"
    except msgspec.DecodeError:
        raise ValueError(f"{name}: expected a number, true or false, got {text!r}") from None
    except InvalidParameter as error:
        raise ValueError(f"{error}, got {text!r}") from None


_UNITS = {unit: 1 << 10 * power for power, unit in enumerate(("b", "kib", "mib", "gib", "tib"))}


def size(value: str) -> str:
    in_bytes(value)
    return value


def sizes(value: str) -> str:
    """One for each graphics card."""
    each_in_bytes(value)
    return value


def in_bytes(value: str) -> int:
    """The bytes of a `size`, 0 for an empty one."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?((?:[kmgt]i)?b|)", value, re.IGNORECASE)
    if value and match is None:
        raise ValueError(f"expected a size like 24GiB or 512MiB, got {value!r}")
    return int(float(match[1]) * _UNITS[match[2].lower() or "b"]) if match else 0


def each_in_bytes(value: str) -> tuple[int, ...]:
    """The bytes of `sizes`."""
    return tuple(in_bytes(part.strip() or "nothing") for part in value.split(",") if value)


def issuer(value: str) -> str:
    """The address of an OpenID provider. Plain http is for this machine alone."""
    parts = urlsplit(url(value))
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError(f"expected an address that begins with https://, got {value!r}")
    return value  # exactly as given: some issuers end with /


def claim_value(value: str) -> str:
    name, mark, text = value.partition("=")
    if not name.strip() or not mark or not text.strip():
        raise ValueError(f"expected CLAIM=VALUE, as groups=ops, got {value!r}")
    return f"{name.strip()}={text.strip()}"


def webhook(value: str) -> Secret:
    """A URL that may contain a secret, so no message shows it."""
    parts = _address(value)
    valid = parts and parts.username is None and value.isprintable() and " " not in value
    if not valid:
        raise ValueError("expected a URL like https://hooks.example.org, no spaces, no user name")
    return Secret(value)
