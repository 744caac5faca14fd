"""Checks that the programs of models to start exist, before the first request for one."""

from __future__ import annotations

import logging

from ..config import Settings, SettingsError
from ..hosting.process import has_program

REMEDY = "write its path in `command`"

log = logging.getLogger("slotproxy")


def check(settings: Settings) -> None:
    """Warn of models whose program is missing. Raises SettingsError if it is --llama-server, which
    all models of a folder need."""
    for model in settings.model:
        if has_program(model):
            continue
        program = model.command[0]
        if settings.models_dir and settings.llama_server.split()[:1] == [program]:
            raise SettingsError(
                f"--llama-server: {program} is not a program: give the path of a llama-server"
            )
        log.warning("model %s: %s is not a program: %s", model.name, program, REMEDY)
