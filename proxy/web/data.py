"""GET and DELETE /v1/data: all that is kept of the caller's key, to take along or to be gone.

What was uploaded is named, not repeated: /v1/files/{id}/content gives a file's bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Blueprint, Response

from .background import told
from .exchange import plain
from .observe import Record
from .services import Services

blueprint = Blueprint("data", __name__)


@blueprint.get("/v1/data")
def export() -> Response:
    def view(here: Services, record: Record) -> Any:
        owner = record.key
        found: dict[str, Any] = {"object": "data"}
        found["responses"] = [msgspec.Raw(told(one)) for one in here.store.all(owner)]
        if here.conversations is not None:
            found["conversations"] = here.conversations.export(owner)
            found["feedback"] = here.conversations.ratings(owner)
        if here.knowledge is not None:
            found["knowledge_bases"] = here.knowledge.export(owner)
        if here.vector_stores is not None:
            found["files"] = here.vector_stores.files(owner)
        return found

    return plain(view)


@blueprint.delete("/v1/data")
def delete() -> Response:
    def view(here: Services, record: Record) -> Any:
        owner = record.key
        here.ongoing.cancel(owner)  # what is being made would be kept later
        gone = {"responses": here.store.clear(owner)}
        if here.conversations is not None:
            gone["conversations"] = here.conversations.clear(owner)
        if here.vector_stores is not None:
            files = here.vector_stores.files(owner)
            for file in files:
                here.vector_stores.delete_file(owner, file.file_id)
            gone["files"] = len(files)
        if here.knowledge is not None:
            gone["knowledge_bases"] = here.knowledge.delete_all(owner)
        return {"object": "data.deleted", "deleted": gone}

    return plain(view)
