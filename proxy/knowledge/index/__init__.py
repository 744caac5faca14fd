"""Finding chunks: by words always, by vectors where an embedding backend is named.

    index = Index(open_shelf(...), embed)
    index.add(base_id, [Entry(chunk_id, document_id, text), ...], model)
    index.search([base_id, ...], query, count) -> (Found, ...), best first
    index.remove(document_id) · index.remove_chunks(chunk_ids) · index.remove_base(base_id)

An index is derived: whatever it holds can be made again of the chunks. So adding is idempotent, and
a document is told as done only after `add` has returned.
"""

from .index import Index, open_shelf
from .rerank import DEPTH, reranked
from .values import Embed, Entry, Found, Rank, distance

__all__ = [
    "DEPTH",
    "Embed",
    "Entry",
    "Found",
    "Index",
    "Rank",
    "distance",
    "open_shelf",
    "reranked",
]
