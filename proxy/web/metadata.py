"""Changing the metadata of stored objects: chat completions and conversations."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..store.responses import Stored


def with_metadata(kept: Stored, metadata: Mapping[str, str]) -> Stored:
    changed = {**msgspec.json.decode(kept.response), "metadata": metadata}
    return kept._replace(response=msgspec.json.encode(changed))
