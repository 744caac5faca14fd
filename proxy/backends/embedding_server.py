"""A llama-server that is there for embeddings, or for rankings, alone.

Many embedding models cannot write a token, so it is asked for a vector, or a score, to see whether
it is well.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..cancel import Cancel
from .driver import Capabilities, Learned, ignore
from .llamacpp import LlamaCpp
from .probe import outline

Gift = Literal["embeddings", "rankings"]


class EmbeddingServer(LlamaCpp):
    """A server.cpp used for `gift` alone."""

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
