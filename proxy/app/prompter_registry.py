"""Chooses each model's chat template: the setting's, its server's own, that of its model's name, or
the legacy format."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path

import msgspec

from ..apis import all_points
from ..backends.driver import Capabilities
from ..backends.registry import Registry
from ..config import Settings, SettingsError
from ..core.task import Task
from ..prompting.formats import SPECIAL
from ..prompting.formats.base import CallFormat
from ..prompting.profile.neutralise import COMMON, Neutraliser
from ..prompting.prompt import LegacyFormat, Prompter
from ..prompting.template import TemplateError, templates
from ..prompting.template.families import family_of
from ..prompting.template.templates import ChatTemplate
from ..runtime.blocking import run_in_native_thread

log = logging.getLogger("slotproxy.templates")

FORMATS = "slotproxy.formats"

MAX_KEPT = 64  # templates: a backend may report another one at every probe
_CAPS = attrgetter("caps")
# Template, or family by the name of the model; BOS and EOS, and whether the backend adds BOS.
_Key = tuple[str, str, str, str, bool]


def known_formats() -> tuple[CallFormat, ...]:
    """Formats of calls that cannot be derived from a template: those of installed packages (entry
    points of the group `slotproxy.formats`), by their names, and then ours. A template has the
    first that matches. Raises SettingsError."""
    installed = []
    points = all_points(tuple(sys.path)).select(group=FORMATS)
    for point in sorted(points, key=attrgetter("name")):
        name = f"the format {point.name} (entry point {FORMATS})"
        try:
            form = point.load()
        except Exception as error:  # a package is a program: any exception is its error
            raise SettingsError(f"{name} cannot be loaded: {error}") from error
        if not isinstance(form, CallFormat):
            raise SettingsError(f"{name} is no CallFormat of proxy.prompting.formats")
        installed.append(form)
    return (*installed, *SPECIAL)


class Prompters:
    """`Prompters(…)(model)` is the model's Prompter. Raises SettingsError."""

    def __init__(self, settings: Settings, registry: Registry, folder: Path) -> None:
        self._registry = registry
        self._legacy = msgspec.convert(settings, LegacyFormat, from_attributes=True)
        self._folder = folder
        self._formats = known_formats()
        self._named = _named(settings.chat_template, folder)
        self._breaks_users = settings.user_control_tokens == "break"
        guard = Neutraliser("", COMMON, users=self._breaks_users)
        self._unrendered = Task(prompt="", backend_templates=True, guard=guard)
        self._auto = settings.chat_template == "auto"
        self._found: dict[_Key, Prompter] = {}
        self._last: dict[str, tuple[list[Capabilities | None], Prompter | Task]] = {}  # by model

    def __call__(self, model: str) -> Prompter | Task:
        """The first backend that reports a template determines it for the whole pool, so that an
        old server gets that of a newer one. If all render prompts themselves, none is needed."""
        pool = [*map(_CAPS, self._registry.pool(model))]
        last = self._last.get(model)
        if last is None or last[0] != pool:
            if len(self._last) >= MAX_KEPT:
                self._last.clear()
            all_caps = [caps for caps in pool if caps is not None]
            self._last[model] = last = pool, self._of(model, all_caps)
        return last[1]

    def _of(self, model: str, all_caps: Sequence[Capabilities]) -> Prompter | Task:
        if all_caps and all(caps.native for caps in all_caps):
            return self._unrendered
        reported = next((caps for caps in all_caps if caps.template), None)
        if reported is not None:
            source = reported.template if self._auto else ""
            key: _Key = (source, "", reported.bos_token, reported.eos_token, reported.adds_bos)
        else:
            names = (model, *(name for caps in all_caps for name in caps.models))
            family = next(filter(None, map(family_of, names)), "") if self._auto else ""
            key = ("", family, "", "", True)
        return self._found.get(key) or self._make(model, *key)

    def _make(
        self, model: str, source: str, family: str, bos: str, eos: str, adds_bos: bool
    ) -> Prompter:
        form = self._form(source, family, model)
        make = partial(
            Prompter,
            form,
            bos,
            eos,
            adds_bos=adds_bos,
            replaces_backend_template=bool(source) and isinstance(form, LegacyFormat),
            breaks_users=self._breaks_users,
            formats=self._formats,
        )
        made = run_in_native_thread(make)  # its probes render some twenty conversations
        while len(self._found) >= MAX_KEPT:
            self._found.pop(next(iter(self._found)), None)
        self._found[source, family, bos, eos, adds_bos] = made
        return made

    def _form(self, source: str, family: str, model: str) -> ChatTemplate | LegacyFormat:
        if self._named is not None:
            return self._named
        if source:
            try:
                return run_in_native_thread(lambda: templates.compile(source, f"of {model}"))
            except TemplateError as error:
                log.warning("model %s: invalid chat template, using legacy: %s", model, error)
        elif self._auto:
            used = f"{family}, by its name" if family else "legacy"
            log.info("model %s: no chat template is reported so far, using %s", model, used)
            if family:
                return _named(family, self._folder) or self._legacy
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
