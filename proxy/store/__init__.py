"""Persistent data, in SQLite or PostgreSQL."""
