"""The composition root: creates the application from all its parts."""

from .create import create_app, life_of, reload, services_of, shows_key, suspend_keys

__all__ = ["create_app", "life_of", "reload", "services_of", "shows_key", "suspend_keys"]
