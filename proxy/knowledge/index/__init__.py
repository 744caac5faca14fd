"""Search index for chunks: always by words, and by vectors if an embedding backend is configured.
It can be rebuilt from the chunks; a document is done only after `add` has returned.
"""
