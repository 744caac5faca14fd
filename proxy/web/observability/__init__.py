"""Access log and metrics, without prompts, answers or API keys."""

from ...runtime.logs import Lines
from .observer import Observer
from .record import RECORD, Record, new_id

__all__ = ["RECORD", "Lines", "Observer", "Record", "new_id"]
