"""Moved."""

from .work_budget import TooMuchWork, limited, spend

__all__ = ["TooMuchWork", "limited", "spend"]
