"""What the index lacks is made again, of the chunks.

It is derived, and in a file of its own: it may have been deleted, or have lost its last lines when
the power went; and documents that were taken in before an embedding backend was named have no
vectors yet. Looked at once, at the start, in the background.
"""

from __future__ import annotations

import logging

from ..errors import GatewayError
from ..store.knowledge import KnowledgeStore
from .index import Entry, Index

AT_ONCE = 200  # chunks
log = logging.getLogger("slotproxy.knowledge")


def mend(store: KnowledgeStore, index: Index) -> int:
    """How many documents were indexed anew."""
    mended = 0
    held = index.census()
    for document_id, base_id, chunks in store.ready():
        rows, vectors = held.get(document_id, (0, 0))
        if rows >= chunks and (vectors >= chunks or not index.embeds):
            continue
        entries = [Entry(one.id, document_id, one.text) for one in store.chunks_in(document_id)]
        try:
            # In parts: others that write get their turn between two.
            for i in range(0, len(entries), AT_ONCE):
                index.add(base_id, entries[i : i + AT_ONCE], store.model_of(base_id))
        except GatewayError as error:
            log.warning("documents wait for their vectors until the next start: %s", error.message)
            break
        mended += 1
    if mended:
        log.info("%d documents were indexed anew", mended)
    return mended
