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
# Of a conversation that is always rendered beside the loop:
LONG = 256  # messages
LARGE = 256 << 10  # characters


def rendered(prompter: Prompter | Unrendered, request: CompletionRequest, now: datetime) -> Prompt:
    """The prompt of a request. Raises Invalid where the template refuses the messages."""
    if isinstance(prompter, Unrendered):
        return prompter.render(request, now)

    def timed() -> Prompt:
        began = time.thread_time()
        try:
            return prompter.render(request, now)
        finally:
            if time.thread_time() - began > SLOW and not _is_long(request):
                prompter.quick = False
            elif prompter.quick is None:
                prompter.quick = True

    if prompter.quick and not _is_long(request):
        return timed()
    return aside(timed)


def _is_long(request: CompletionRequest) -> bool:
    if len(request.messages) >= LONG:
        return True
    size = 0
    for message in request.messages:
        size += len(message.content)
        for call in message.tool_calls:
            size += len(call.arguments)
    return size > LARGE
