"""The agent's tools: a calculator, the time, functions of other packages, and tools of MCP servers.

`toolbox` collects them. Search tools belong to `dialogue`.
"""

from . import functions
from .remote import Remotes
from .toolbox import Toolbox
from .tools import Server

__all__ = ["Remotes", "Server", "Toolbox", "functions"]
