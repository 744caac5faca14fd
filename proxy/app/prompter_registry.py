"""Chooses each model's chat template: the setting's, its server's own, or the legacy format."""

from __future__ import annotations

import logging
from pathlib import Path

from ..backends.registry import Registry
from ..config import Settings, SettingsError
from ..prompting import templates
from ..prompting.legacy import LegacyFormat
from ..prompting.prompt import Prompter, Unrendered
from ..prompting.sandbox import TemplateError
from ..prompting.templates import ChatTemplate
from ..runtime.blocking import run_in_native_thread

log = logging.getLogger("slotproxy.templates")

MAX_KEPT = 64  # templates: a backend may report another one at every probe


class Prompters:
    """`Prompters(…)(model)` is the model's Prompter. Raises SettingsError for an invalid
    template."""

    def __init__(self, settings: Settings, registry: Registry, folder: Path) -> None:
        self._registry = registry
        self._legacy = LegacyFormat(
            chat_prompt=settings.chat_prompt,
            user_name=settings.user_name,
            ai_name=settings.ai_name,
            system_name=settings.system_name,
            stop=settings.stop,
        )
        self._named = _named(settings.chat_template, folder)
        self._auto = settings.chat_template == "auto"
        self._found: dict[tuple[str, str, str, bool], Prompter] = {}

    def __call__(self, model: str) -> Prompter | Unrendered:
        """The first backend of the pool that reports a template determines it for the whole pool,
        so that an old server gets the template of a newer one. If all of them render prompts
        themselves, none is needed."""
        known = [b.caps for b in self._registry.pool(model) if b.caps is not None]
        if known and all(caps.native for caps in known):
            return Unrendered()
        reported = next((caps for caps in known if caps.template), None)
        key = ("", "", "", True)
        if reported is not None:
            source = reported.template if self._auto else ""
            key = (source, reported.bos_token, reported.eos_token, reported.adds_bos)
        return self._found.get(key) or self._make(model, *key)

    def _make(self, model: str, source: str, bos: str, eos: str, adds_bos: bool) -> Prompter:
        form = self._form(source, model)
        instead = bool(source) and isinstance(form, LegacyFormat)
        made = Prompter(form, bos, eos, adds_bos=adds_bos, instead=instead)
        while len(self._found) >= MAX_KEPT:
            self._found.pop(next(iter(self._found)), None)
        self._found[source, bos, eos, adds_bos] = made
        return made

    def _form(self, source: str, model: str) -> ChatTemplate | LegacyFormat:
        if self._named is not None:
            return self._named
        if source:
            try:
                return run_in_native_thread(lambda: templates.compile(source, f"of {model}"))
            except TemplateError as error:
                log.warning("the backend's chat template is invalid, using legacy: %s", error)
        return self._legacy


def _named(setting: str, folder: Path) -> ChatTemplate | None:
    if setting in ("auto", "legacy"):
        return None
    path = folder / f"{setting}.jinja"
    if not path.is_file():
        path = Path(setting)
    try:
        if path.stat().st_size > templates.MAX_SOURCE:
            raise SettingsError(f"--chat-template: {setting} is too large")
        return templates.compile(path.read_text("utf-8"), path.stem)
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"--chat-template: cannot read {setting}") from None
    except TemplateError as error:
        raise SettingsError(f"--chat-template: {error}") from None
