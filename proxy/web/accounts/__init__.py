"""LiteLLM's management API, and the audit: keys, users and teams in the store."""

from . import keys
from .common import blueprint

__all__ = ["blueprint", "keys"]
