"""Access log and metrics: every request has one log line and is counted once.

Each request has a `Record` until its last byte is sent. Then the `Observer` writes its line in the
access log and keeps its `Summary`, which the metrics and the history of the status page count. None
of this contains prompts, answers or API keys.
"""

from .observer import Lines, Observer
from .record import RECORD, Record, new_id

__all__ = ["RECORD", "Lines", "Observer", "Record", "new_id"]
