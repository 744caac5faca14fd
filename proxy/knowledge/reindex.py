"""Rebuilds missing parts of the index from the stored chunks.

The index is derived data in a file of its own: the file may have been deleted, or may have lost its
last writes in a power failure. Documents added before an embedding backend was configured have no
vectors yet. This runs once at start, in the background.
"""

from __future__ import annotations

import logging

from ..errors import GatewayError
from ..store.knowledge import KnowledgeStore
from .index import Index, IndexEntry

AT_ONCE = 200  # chunks
log = logging.getLogger("slotproxy.knowledge")


def reindex_missing(store: KnowledgeStore, index: Index) -> int:
    """Index documents with missing chunks or vectors; return how many there were."""
    mended = 0
    held = index.census()
    for document_id, base_id, chunks in store.ready():
        rows, vectors = held.get(document_id, (0, 0))
        if rows >= chunks and (vectors >= chunks or not index.embeds):
            continue
        entries = [
            IndexEntry(one.id, document_id, one.text) for one in store.chunks_in(document_id)
        ]
        try:
            # In parts, so that other writers get their turn in between.
            for i in range(0, len(entries), AT_ONCE):
                index.add(base_id, entries[i : i + AT_ONCE], store.model_of(base_id))
        except GatewayError as error:
            log.warning("documents without embeddings wait for the next start: %s", error.message)
            break
        mended += 1
    if mended:
        log.info("reindexed %d documents", mended)
    return mended
