"""LiteLLM's management API, and the audit: keys, users, teams and what they used."""

from . import audit, keys, spend, teams, users
from .common import blueprint

__all__ = ["audit", "blueprint", "keys", "spend", "teams", "users"]
