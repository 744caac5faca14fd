"""LiteLLM's management API, and the audit: keys, users and teams in the store."""

from . import keys, teams, users
from .common import blueprint

__all__ = ["blueprint", "keys", "teams", "users"]
