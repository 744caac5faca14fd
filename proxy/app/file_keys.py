"""The keys of the settings: those of the file that have rights or limits, and changed files."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from ..accounts.limits import NO_LIMITS, Limited
from ..accounts.records import Identity
from ..accounts.rights import Rights
from ..apis.litellm.rights import parse_options
from ..config import ApiKey, Settings, SettingsError
from ..errors import InvalidParameter
from ..web.services import Services


def identities(settings: Settings) -> Mapping[str, Identity]:
    """By the name of the key. Raises SettingsError with the line of a wrong option."""
    return {key.name: _identity(key) for key in settings.keys if key.options}


def share_apart(settings: Settings) -> bool:
    """Whether there may be keys that share no prompts. Administrators make keys at any time."""
    return len({key.cache_group for key in settings.keys}) > 1 or bool(settings.admins)


def are_several(settings: Settings) -> bool:
    """Whether there may be more than one key."""
    return len({key.name for key in settings.keys}) > 1 or bool(settings.admins)


def replaced(services: Services, settings: Settings) -> Callable[[], None]:
    """Returns the function that accepts the keys of these settings instead of those before. Raises
    SettingsError if they need a restart, or have wrong options."""
    began = services.settings
    if bool(began.keys) != bool(settings.keys):
        raise SettingsError("the first API key, and the end of the last, need a restart")
    for test in (share_apart, are_several):
        if test(settings) and not test(began):
            raise SettingsError("a second API key, or group of keys, needs a restart")
    bounded = identities(settings)

    def replace_keys() -> None:
        services.keys.replace(((key.name, key.secret) for key in settings.keys), bounded)
        services.callers.replace(settings.keys)

    return replace_keys


def _identity(key: ApiKey) -> Identity:
    try:
        rights = parse_options(key.options)
    except InvalidParameter as error:
        raise SettingsError(f"--api-key-file: {key.place}: {error}") from None
    permits = replace(rights, limits=NO_LIMITS)
    return Identity(
        key=key.name,
        group=key.cache_group,
        priority=key.priority,
        on_overflow=key.on_overflow,
        rights=(permits,) if permits != Rights() else (),
        limits=(Limited(f"key {key.name}", rights.limits),) if rights.limits != NO_LIMITS else (),
    )
