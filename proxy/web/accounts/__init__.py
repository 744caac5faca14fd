"""LiteLLM's management API, and the audit: keys, users and teams in the store."""

from . import audit, keys, teams, users
from .common import blueprint

__all__ = ["audit", "blueprint", "keys", "teams", "users"]
