"""Folders of conversations on the chat page. A folder is a name in the settings of conversations,
and exists as long as one of them has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response

from ...apis import fields
from ...errors import InvalidParameter
from ..spine import json_response
from . import api, guard

blueprint = guard.guarded("chat_folders")

API = "/pages/api/chat/folders"
MOST = 100  # folders of a key
LONGEST = 60  # characters of a name


def name_of(owner: str, body: Mapping[str, Any], field: str) -> str:
    """Read the name of a folder, which may be a new one. Raises InvalidParameter."""
    name = " ".join(fields.text(body, field).split())
    if len(name) > LONGEST or not name.isprintable():
        raise InvalidParameter(field, f"must have at most {LONGEST} printable characters")
    names = api.conversations().folders(owner)
    if name and name not in names and len(names) >= MOST:
        raise InvalidParameter(field, f"is one too many: there may be {MOST} folders")
    return name


@blueprint.get(API)
def folders() -> Response:
    return json_response(api.conversations().folders(api.owner()))


@blueprint.put(API)
def rename() -> Response:
    """Rename a folder: `{"folder", "name"}`. The name "" leaves its conversations in no folder."""
    body, owner = api.json_body(), api.owner()
    name = name_of(owner, body, "name")
    api.conversations().rename_folder(owner, fields.filled(body, "folder"), name)
    return api.done()
