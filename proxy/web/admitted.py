"""Limits of requests that ask a model, but for no text: embeddings, rankings and forwarded ones.

Completions keep their limits themselves, in the gateway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager

from ..accounts.limiting.allowance import Admission
from ..accounts.limiting.budgets import Used
from ..accounts.limiting.plan import Size
from ..gateway import Caller
from ..runtime.cancel import Cancel
from .fastpath import Environ
from .observability import Record
from .services import Services

CHARACTERS = 3  # of a token, about


def admission(caller: Caller, cancel: Cancel, model: str, prompt: int = 0) -> Admission | None:
    """What a request to this model with a prompt of about so many tokens takes from the limits of
    its caller, which is to be settled; None without limits. Waits if the caller's limits say so.
    Raises the errors of `Allowance.admit`."""
    if caller.allowance is None:
        return None
    admitting = caller.allowance.admit(Size(prompt), model, cancel)
    while True:
        try:
            next(admitting)
        except StopIteration as end:
            found: Admission = end.value
            return found


@contextmanager
def within_limits(
    services: Services,
    record: Record,
    environ: Environ,
    cancel: Cancel,
    *,
    model: str,
    texts: Iterable[Sized],
) -> Iterator[None]:
    """Run a request to this model that evaluates these texts, or lists of token ids, within the
    limits of its caller. Afterwards, the tokens in the record's info are charged."""
    caller = services.callers.caller(record.key, environ)
    taken = admission(caller, cancel, model, 0 if caller.allowance is None else _about(texts))
    try:
        yield
    finally:
        if taken is not None:
            usage = record.info.usage
            taken.settle(Used(usage.prompt, usage.cached, usage.completion))


def _about(texts: Iterable[Sized]) -> int:
    """About how many tokens these texts have."""
    return sum(
        len(text) // CHARACTERS + 1 if isinstance(text, str) else len(text) for text in texts
    )
