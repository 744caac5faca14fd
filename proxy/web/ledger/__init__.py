"""The ledger: a row for each request that asks a model, kept in the database.

`entries` makes rows of finished requests, `writer` stores them in batches off the hot path. The
routes of `usage` show sums (`shapes`) and rows (`exports`). Rows contain no
text of prompts or answers, and no API keys, only their names.
"""
