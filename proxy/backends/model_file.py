"""The chat template of a server that reports none, read from its model file.

The servers of 2023 and PowerInfer report the name of the file alone, as -m gave it. If they run on
this machine, the file is here as well.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ..runtime.blocking import NativeThreads, run_in_native_thread
from ..wire.router import as_dict
from . import gguf
from .driver import Capabilities

log = logging.getLogger("slotproxy.backends")

MAX_PATH = 4096  # characters
_threads = NativeThreads(1)


def with_template(caps: Capabilities, url: str, *answers: Mapping[str, Any]) -> Capabilities:
    """The capabilities with the template and the tokens of the model file that one of the server's
    answers names, unless it reports a template or runs on another machine."""
    if caps.template or not _is_here(url):
        return caps
    for answer in answers:
        settings = as_dict(answer.get("default_generation_settings"))
        for name in (answer.get("model_path"), answer.get("model"), settings.get("model")):
            if not isinstance(name, str) or not 0 < len(name) <= MAX_PATH:
                continue
            found = run_in_native_thread(lambda name=name: _read(name), _threads)  # type: ignore[misc]
            if found is not None and found.template:
                log.info("the server at %s reports no chat template: read from %s", url, name)
                return msgspec.structs.replace(
                    caps,
                    template=found.template,
                    template_from="file",
                    bos_token=found.bos,
                    eos_token=found.eos,
                    adds_bos=found.adds_bos,
                )
    return caps


def _read(name: str) -> gguf.Tokenizer | None:
    """None if there is no such file, or it is no GGUF file."""
    try:
        return gguf.tokenizer(Path(name))
    except (OSError, ValueError):
        return None


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
