"""The person of a request by a key that many people use, as Open WebUI, LiteLLM's clients and
LibreChat name them. Pure. Names are text of clients: bounded, and printable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from ..accounts.records import User

LONGEST = 255  # characters of a name
TAGS = ("HTTP_X_SLOTPROXY_TAGS", "HTTP_X_LITELLM_TAGS")
MOST_TAGS = 8  # of a request
LONGEST_TAG = 64  # characters
EMAIL = "HTTP_X_OPENWEBUI_USER_EMAIL"
# The first one names the person. An address is better than an id of another program: the same
# person may have keys here, and sign in by OpenID.
HEADERS = (
    "HTTP_X_LITELLM_CUSTOMER_ID",
    "HTTP_X_LITELLM_END_USER_ID",
    EMAIL,
    "HTTP_X_OPENWEBUI_USER_ID",
)
# environ key of what is called with environ and a body that may name the person.
ON_BODY = "slotproxy.on_body"
FIELDS = ("user", "safety_identifier")  # of OpenAI's bodies
LONGEST_ID = 4096  # characters of a user_id that are read


class _ClaudeCode(msgspec.Struct):
    account_uuid: str = ""
    device_id: str = ""
    session_id: str = ""


_claude_code = msgspec.json.Decoder(_ClaudeCode).decode


def of_claude_code(body: Mapping[str, Any]) -> tuple[str, str]:
    """The person and the session in `metadata.user_id`, "" for none. Claude Code writes
    `{"device_id": …, "account_uuid": …, "session_id": …}`, or in earlier versions
    `user_…_account_…_session_…`; a plain id names a person."""
    user_id = _of_metadata(body, "user_id")
    if type(user_id) is not str or len(user_id) > LONGEST_ID:
        return "", ""
    if not user_id.startswith("{"):
        person, _, session = user_id.partition("_session_")
        return person, session
    try:
        user = _claude_code(user_id)
    except msgspec.MsgspecError:
        return "", ""
    return user.account_uuid or user.device_id, user.session_id


def _of_metadata(body: Mapping[str, Any], field: str) -> object:
    metadata = body.get("metadata")
    return metadata.get(field) if type(metadata) is dict else None


def of_headers(environ: Mapping[str, Any]) -> User | None:
    """The person that the headers name, None if they name nobody."""
    for header in filter(environ.__contains__, HEADERS):
        if name := _name(_text(environ[header])):
            # Open WebUI writes the name of a person with %XX.
            written = _text(environ.get("HTTP_X_OPENWEBUI_USER_NAME", ""))
            alias = _name(unquote(written[: 9 * LONGEST]))
            role = _name(_text(environ.get("HTTP_X_OPENWEBUI_USER_ROLE", "")))
            email = name if header == EMAIL else None
            metadata = {"role": role} if role else {}
            return User(id=name, email=email, alias=alias or None, metadata=metadata)
    return None


def of_body(body: Mapping[str, Any]) -> User | None:
    """The person that a body names, None if it names nobody."""
    for value in (*map(body.get, FIELDS), of_claude_code(body)[0]):
        if name := _name(value):
            return User(id=name)
    return None


def tags_of(environ: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    """The tags of a request, with commas between them."""
    headers = (_text(environ.get(header, "")) for header in TAGS)
    tags = [tag for header in headers for tag in header.split(",", MOST_TAGS)[:MOST_TAGS]]
    if type(listed := _of_metadata(body, "tags")) is list:
        tags += listed[:MOST_TAGS]
    names = {_name(tag, LONGEST_TAG) for tag in tags} - {""}
    return ",".join(sorted(name for name in names if "," not in name)[:MOST_TAGS])


def _text(header: str) -> str:
    """The text of a header, whose bytes WSGI has as characters; "" if it is not UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return ""


def _name(value: object, longest: int = LONGEST) -> str:
    """A name that may be stored, "" if this is none."""
    name = value.strip() if type(value) is str and len(value) <= longest else ""
    return name if name.isprintable() else ""
