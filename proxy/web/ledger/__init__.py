"""The ledger: a row for each request that asks a model, kept in the database.

Rows contain no text of prompts or answers, and no API keys, only their names.
"""
