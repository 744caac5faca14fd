"""What a configuration file of another program says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct


class Foreign(Struct, frozen=True):
    """`values` are settings by name. `notes` name the parts of the file that are not supported.
    `models_max` is how many models may be loaded at once if the operator bounds neither their
    memory nor their number; 0: any."""

    values: dict[str, Any]
    notes: Sequence[str] = ()
    models_max: int = 0
