"""Tools of an agent that need no model: a calculator, the time, functions of other packages, and
those of MCP servers. `toolbox` has them all behind one seam; searches are the dialogue's own.
"""

from . import functions
from .toolbox import Toolbox
from .values import Server

__all__ = ["Server", "Toolbox", "functions"]
