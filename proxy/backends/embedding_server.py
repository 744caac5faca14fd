"""A driver for a llama-server that only makes embeddings or rankings.

Many embedding models cannot generate a token, so the probe asks for a vector or a score instead.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..runtime.cancel import Cancel
from .driver import Capabilities, Learned, ignore
from .llamacpp import LlamaCpp
from .probe import outline

Gift = Literal["embeddings", "rankings"]


class EmbeddingServer(LlamaCpp):
    """A server.cpp that is only used for `gift`."""

    gift: Gift = "embeddings"

    def probe(self, deadline: float, learned: Learned = ignore) -> Capabilities:
        """Raises BackendDown, UpstreamFault, UpstreamTimeout, Unsupported."""
        caps = outline(self.url, self.headers)
        learned(caps)
        if self.gift == "embeddings":
            self.embed(("Hi",), caps, Cancel())
        else:
            self.rerank("Hi", ("Hello",), caps, Cancel())
        return msgspec.structs.replace(caps, embeddings=True)
