"""Search index for chunks: always by words, and by vectors if an embedding backend is configured.

It is derived data, which can be rebuilt from the chunks: adding is idempotent, and a document is
reported as done only after `add` has returned.
"""
