"""Prompts are made on the loop where that is quick, and beside it where it may not be.

A template is a stranger's program. What it may do is bounded, so that it ends; how long it takes is
seen. The first prompt of a template is made in a thread, and all of them where one was slow.
"""

from __future__ import annotations

import time
from datetime import datetime

from ..aside import aside
from ..core.request import CompletionRequest
from ..prompting.prompt import Prompt, Prompter, Unrendered

SLOW = 0.02  # seconds of CPU
LONG = 256  # messages of a conversation that is always rendered beside the loop


def rendered(prompter: Prompter | Unrendered, request: CompletionRequest, now: datetime) -> Prompt:
    """The prompt of a request. Raises Invalid where the template refuses the messages."""
    if isinstance(prompter, Unrendered):
        return prompter.render(request, now)

    def timed() -> Prompt:
        began = time.thread_time()
        try:
            return prompter.render(request, now)
        finally:
            if time.thread_time() - began > SLOW and len(request.messages) < LONG:
                prompter.quick = False
            elif prompter.quick is None:
                prompter.quick = True

    if prompter.quick and len(request.messages) < LONG:
        return timed()
    return aside(timed)
