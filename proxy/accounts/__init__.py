"""Accounts: API keys in the store, their users and teams, and what each may do."""
