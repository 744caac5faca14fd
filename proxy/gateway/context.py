"""What a request comes with and leaves behind, and what all requests of a gateway share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from ..accounts.limiting.allowance import Allowance
from ..accounts.rights import ALL, Permissions
from ..backends.registry import Registry
from ..core.usage import Usage
from ..scheduling.schedulers import Scheduler
from ..scheduling.state import SlotRequest
from .admission import RetryBudget
from .generation import GenerationSettings


class GatewayContext(Struct, frozen=True, kw_only=True):
    """`clock` returns monotonic seconds. `continues`: a broken answer resumes on another backend.
    `side_jobs` are the texts that the last message of a side job begins with. `ping`: seconds
    between signs of life in a stream that waits for a backend, inf for none. `retries` bounds the
    retries of all requests together."""

    registry: Registry
    scheduler: Scheduler
    clock: Callable[[], float]
    generation: GenerationSettings
    continues: bool = True
    side_jobs: tuple[str, ...] = ()
    ping: float = 15.0
    retries: RetryBudget = msgspec.field(default_factory=RetryBudget)


class Caller(Struct, frozen=True, kw_only=True):
    """The caller of a request, as the scheduler and the ledger see it.

    `key` is the name of the API key, `user` and `team` the ids of its user and team, "" for none.
    Only requests of the same `group` share cached prompts. `share` is the weight of the key's class
    in the queue. `background` marks a side job, which avoids evicting others' prompts; `idle` a
    request that uses idle slots only, and is cancelled when others need its slot. `begun`: a part
    of its answer is done, so it waits for an idle slot as long as it must.
    `tell_place`: report the place in the queue in the stream. `may` says which models may be
    used, and which tiers of routes may not. `allowance` is what the request may take
    from the limits of its key, None without limits. `on_overflow` says what happens to
    conversations that do not fit, refuse or compact; "": what is set for the model."""

    key: str = ""
    user: str = ""
    team: str = ""
    group: str = ""
    share: float = 1.0
    background: bool = False
    idle: bool = False
    begun: bool = False
    tell_place: bool = False
    may: Permissions = ALL
    allowance: Allowance | None = None
    on_overflow: str = ""

    def slot_request(self, model: str, **fields: Any) -> SlotRequest:
        """The request for a slot of one that does not write text; `fields` as of SlotRequest."""
        return SlotRequest(
            model=model,
            key=self.key,
            group=self.group,
            share=self.share,
            barred=self.may.barred_tiers,
            idle=self.idle,
            background=True,
            **fields,
        )


ANYBODY = Caller()
NO_USAGE = Usage()
LATER: Any = None  # the default of a field that is set before it is read


class Info(Struct, kw_only=True):
    """Facts about a request for headers, the log and metrics, filled in while it runs.

    `first_place` is its first position in the queue, `place` the current one, 0 for none.
    `continued` counts resumes on another backend; `loading` is a notice that the model is being
    loaded. Times are in seconds: `queue_wait` in the queue; `placed`, `first_token` and
    `last_token` since the request began; `evaluating` and `writing` are the backend's own times for
    prompts and tokens. `slot_seconds` is how long slots were leased, added up over all choices and
    runs. `longest` is the length of the longest sequence, prompt and answer, in tokens. `tier` is
    the backend's tier in a route. `passed` names the backends that were passed over, and why:
    `down`, `paused`, `busy`, `barred`, or by a fault of this request `failed`, `timeout` or
    `refused`.

    `has_effects`: tools have run for the answer, which another try would repeat.

    `kinds` are those of `prompting.profile.verify` because of which the backend renders the prompt.

    `compacted` is the number of messages that a summary replaced.

    `usage` is that of the answer, with what the summary cost. Of choices that did not end, it has
    the tokens so far."""

    model: str = ""
    backend: str = ""
    tier: str = ""
    passed: tuple[tuple[str, str], ...] = ()
    slot: int = -1
    queue_wait: float = 0.0
    first_place: int = 0
    place: int = 0
    loading: str = ""
    continued: int = 0
    placed: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    choices: int = 0
    evaluating: float = 0.0
    writing: float = 0.0
    slot_seconds: float = 0.0
    longest: int = 0
    usage: Usage = NO_USAGE
    outcome: str = ""
    has_effects: bool = False
    kinds: tuple[str, ...] = ()
    compacted: int = 0
    warnings: tuple[str, ...] = ()
