"""Moved."""

from .task import Embedded, Ranked, Vector, normalised

__all__ = ["Embedded", "Ranked", "Vector", "normalised"]
