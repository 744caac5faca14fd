"""Search on the web: engines behind one seam, and pages read with a guard.

`engines` are pure, a request and the reading of its answer each; `metasearch` is the one that is a
library; `fetch` is HTTP that is bounded and pinned; `passages` takes the parts of a page that fit;
`reading` does both in a child, beside the gateway. `search` puts them together.
"""

from . import metasearch
from .search import WebSearch
from .values import Result

__all__ = ["Result", "WebSearch", "metasearch"]
