"""The agent's tools: a calculator, the time, functions of other packages, and tools of MCP servers.

`toolbox` collects them. Search tools belong to `dialogue`.
"""

from . import functions
from .functions import Server
from .remote import Remotes
from .toolbox import Toolbox

__all__ = ["Remotes", "Server", "Toolbox", "functions"]
