"""The one use case: a request becomes a stream of events, whatever the dialect and the backend.

    resolve the model -> render -> for each choice: admit, drive, filter -> (choice, batch)*

`answer` holds the request and its choices, `placement` one choice from admission to its end,
`fitting` what a backend can take, `pipeline` its runs, `way` the stages their events go through.
`embedder` stands beside them: embeddings and rankings.
"""

from ..scheduling.view import SlotView, View
from .answer import Answer, Gateway
from .caller import Caller
from .embedder import Embedder
from .info import Info
from .way import Manner

__all__ = ["Answer", "Caller", "Embedder", "Gateway", "Info", "Manner", "SlotView", "View"]
