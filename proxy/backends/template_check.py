"""Asks a llama-server for its own prompts of the probes in `prompting.profile.verify`.

It is done by the thread that checks the backend's health, once for each template and build. The
route takes no slot.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import datetime

from msgspec import structs

from ..core.request import CompletionRequest
from ..core.task import Task
from ..errors import GatewayError
from ..prompting.profile import verify
from ..prompting.profile.verify import Verdict
from ..prompting.prompt import Prompter, assistant_prefill
from ..runtime.blocking import run_in_native_thread
from .driver import Driver
from .pools import Backend

log = logging.getLogger("slotproxy.backends")


def look(
    prompters: Callable[[str], Prompter | Task], now: Callable[[], datetime], backend: Backend
) -> None:
    """Set the backend's verdict if its template or build has changed. `prompters` returns the
    prompter of a model, `now` the time of day."""
    caps = backend.caps
    if caps is None or not caps.chat or caps.native or caps.provisional:
        return
    own = bool(caps.template) and caps.template_from == "server"
    if not own or backend.chat_mode != "auto" or backend.status not in ("", "loaded"):
        return  # the verdict does not matter, or would load the model
    key = caps.template, caps.build, caps.bos_token, caps.eos_token, caps.adds_bos
    if key == backend.verified:
        return
    prompter = prompters(backend.model)
    if isinstance(prompter, Task):
        backend.verdict = verify.UNKNOWN
        return
    verdict = check(backend.driver, prompter, now())
    if verdict.differing:
        kinds = ", ".join(verdict.differing)
        log.warning("backend %s: its own prompts differ from slotproxy's (%s)", backend.name, kinds)
    backend.verified, backend.verdict = key, verdict


def check(driver: Driver, prompter: Prompter, now: datetime) -> Verdict:
    """Compare the prompts of a server with ours. Kinds that it does not render are left out.
    A probe of a kind that is known to differ says nothing more."""
    ours = run_in_native_thread(
        lambda: {
            kind.name: [verify.our_prompts(prompter, probe, now) for probe in kind.probes]
            for kind in verify.KINDS
        }
    )
    outcomes: dict[str, verify.Outcome] = {}
    differing: list[str] = []
    try:
        for kind in verify.KINDS:
            compared = []
            for probe, texts in zip(kind.probes, ours[kind.name], strict=True):
                if texts is None or verify.kinds_of(probe, differing):
                    continue
                compared.append(_outcome(driver, probe, texts))
            if compared:
                outcomes[kind.name] = outcome = verify.outcome_of(compared)
                differing += [kind.name] * (outcome == "differs")
    except GatewayError as error:  # it has no such route, for one
        log.debug("the prompts of a server are not known: %s", error)
    return verify.verdict(outcomes)


def _outcome(driver: Driver, probe: CompletionRequest, ours: Collection[str]) -> verify.Outcome:
    task = Task(prompt="", request=probe, max_tokens=1, backend_templates=True)
    rendered = driver.server_prompt(task)
    outcome = verify.compared(probe, ours, rendered)
    if outcome == "differs" and rendered is not None and assistant_prefill(probe):
        # Some servers cut the beginning of the model's turn for templates with an end token there.
        before = structs.replace(probe, messages=probe.messages[:-1])
        question = driver.server_prompt(structs.replace(task, request=before))
        if question is None or not rendered.startswith(question.rstrip()):
            return "refused"
    return outcome
