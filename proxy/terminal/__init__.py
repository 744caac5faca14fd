"""What ``slotproxy chat``, ``ps`` and ``top`` do: they talk to a running gateway over HTTP, as any
client does. Nothing of the gateway itself is imported, so they start at once.
"""

from __future__ import annotations

import sys
from argparse import Namespace

from ..config import Settings
from . import chat, top
from .client import TerminalError, client_of, safe


def run(command: str, own: Namespace, settings: Settings) -> int:
    """Carry out a command with its `own` arguments. Returns the exit code. Raises SettingsError."""
    work = {"chat": chat.run, "ps": top.print_models, "top": top.run}[command]
    client = client_of(own.url, own.key_file, settings)
    try:
        return work(client, own)
    except TerminalError as error:
        message = safe(str(error))
    except (KeyError, TypeError, AttributeError, ValueError):  # of what it answered
        message = f"the program at {client.url} is no slotproxy, or of another version"
    except KeyboardInterrupt:
        return 130
    print(f"slotproxy: {message}", file=sys.stderr)
    return 1
