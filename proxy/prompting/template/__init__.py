"""Chat templates: the sandbox they run in, and rendering."""

from __future__ import annotations


class TemplateError(ValueError):
    """The template does not compile, fails to render, or does too much work."""


class TemplateRefusal(TemplateError):
    """The template rejected the messages with ``raise_exception``; the message says why."""
