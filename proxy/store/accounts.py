"""The stores of a gateway that keeps API keys. Needs no SQLAlchemy, unlike the stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..accounts.records import Team, User

if TYPE_CHECKING:
    from .api_keys import ApiKeys, Groups


class Accounts(NamedTuple):
    """`follow` is called after changes, which then count at once in this process."""

    keys: ApiKeys
    users: Groups[User]
    teams: Groups[Team]
    follow: Callable[[], None]
