"""Search index for chunks: always by words, and by vectors if an embedding backend is configured.

    index = Index(open_shelf(...), embed)
    index.add(base_id, [IndexEntry(chunk_id, document_id, text), ...], model)
    index.search([base_id, ...], query, count) -> (IndexHit, ...), best first
    index.remove(document_id) · index.remove_chunks(chunk_ids) · index.remove_base(base_id)

The index is derived data: it can be rebuilt from the chunks at any time. So adding is idempotent,
and a document is reported as done only after `add` has returned.
"""
