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


class _ClaudeCode(msgspec.Struct):
    """The `metadata.user_id` of Claude Code: JSON in a string."""

    account_uuid: str = ""
    device_id: str = ""


_claude_code = msgspec.json.Decoder(_ClaudeCode).decode


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
    metadata = body.get("metadata")
    of_anthropic = metadata.get("user_id") if type(metadata) is dict else None
    for value in (*map(body.get, FIELDS), _without_session(of_anthropic)):
        if name := _name(value):
            return User(id=name)
    return None


def tags_of(environ: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    """The tags of a request, with commas between them."""
    headers = (_text(environ.get(header, "")) for header in TAGS)
    tags = [tag for header in headers for tag in header.split(",", MOST_TAGS)[:MOST_TAGS]]
    metadata = body.get("metadata")
    listed = metadata.get("tags") if type(metadata) is dict else None
    if type(listed) is list:
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


def _without_session(user_id: object) -> object:
    """The account or device in Claude Code's user id, which is another one in each session."""
    if type(user_id) is not str or len(user_id) > LONGEST * 16:
        return None
    if not user_id.startswith("{"):
        return user_id.partition("_session_")[0]
    try:
        user = _claude_code(user_id)
    except msgspec.MsgspecError:
        return None
    return user.account_uuid or user.device_id
