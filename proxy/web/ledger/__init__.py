"""The ledger: a row for each request that asks a model, without texts of prompts or answers."""
