"""Moved."""

from .task import Call, CallBody, CallMaker, Forwarded

__all__ = ["Call", "CallBody", "CallMaker", "Forwarded"]
