"""Limits of requests that ask a model for no text, such as embeddings and forwarded ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import closing, contextmanager
from functools import partial

from flask import request

from ..accounts.limiting.allowance import Reservation
from ..accounts.limiting.budgets import Used
from ..accounts.limiting.plan import Size
from ..accounts.rights import Permissions
from ..core.usage import Usage
from ..errors import GatewayError, Unsupported
from ..gateway import Caller, Embedder, Gateway
from ..runtime.cancel import Cancel
from . import disconnect
from .observability import Record
from .permissions import check_model, permissions
from .services import Services

CHARACTERS = 3  # of a token, about


class Admitted:
    """What a request takes from the limits of its caller. One that uses idle slots only takes it
    with its first slot, in `on_slot`. `began`: it had a slot. Raises like `Allowance.admit`."""

    def __init__(self, caller: Caller, model: str, prompt: int = 0) -> None:
        self._allowance, self._model, self._size = caller.allowance, model, Size(prompt)
        self._taken: Reservation | None = None
        self.began = False
        if not caller.idle:
            self._take()

    def _take(self) -> None:
        if self._taken is None and self._allowance is not None:
            self._taken = self._allowance.admit(self._size, self._model)

    def on_slot(self) -> None:
        self._take()
        self.began = True

    def settle(self, used: Used) -> None:
        if self._taken is not None:
            self._taken.settle(used)

    def close(self) -> None:
        """Give everything back that is not settled."""
        if self._taken is not None:
            self._taken.close()


@contextmanager
def counted(services: Services, record: Record, model: str) -> Iterator[tuple[Cancel, Permissions]]:
    """Run the current request, which has a model's backend count or convert tokens, as one without
    tokens within its caller's limits. Its body was read. Yields what ends it, and what the
    caller may do. Raises like `check_model` and `Allowance.admit`."""
    environ = request.environ
    check_model(services, environ, model)
    caller = services.callers.caller(record.key, environ)
    with (
        disconnect.watched(environ) as cancel,
        closing(Admitted(caller, _narrowed(caller, services.gateway, model))),
    ):
        yield cancel, permissions(services, environ)


@contextmanager
def within_limits(
    caller: Caller, record: Record, embedder: Embedder, model: str, texts: Iterable[Sized]
) -> Iterator[Admitted]:
    """Run a request to this model of an embedder that evaluates these texts, or lists of token ids,
    within its caller's limits. Afterwards, the tokens in the record's info are charged. If the
    client leaves, or is refused, after a backend has begun, these are about those of all texts."""
    prompt = _about(texts) if caller.allowance is not None else 0
    admitted = Admitted(caller, _narrowed(caller, embedder, model), prompt)
    try:
        yield admitted
    except Unsupported:  # nothing was evaluated
        raise
    except GatewayError as error:
        # A request for idle slots ends when others need its slot, and is made again.
        if admitted.began and error.status < 500 and not caller.idle:
            record.info.usage = Usage(_about(texts), 0)
        raise
    finally:
        usage = record.info.usage
        admitted.settle(Used(usage.prompt, usage.cached, usage.completion))


def _narrowed(caller: Caller, of: Gateway | Embedder, name: str) -> str:
    """The model of this name, whose limits count for the caller as well."""
    if caller.allowance is None:
        return name
    pool, model = of.registry.resolve(name)
    caller.allowance.for_model(partial(of.registry.names_of, pool))
    return model


def _about(texts: Iterable[Sized]) -> int:
    """About how many tokens these texts have."""
    return sum(
        len(text) // CHARACTERS + 1 if isinstance(text, str) else len(text) for text in texts
    )
