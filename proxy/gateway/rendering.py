"""Renders prompts, on the event loop if that is fast, otherwise in a native thread.

A template is a stranger's program. The sandbox bounds its work, so it ends; how long it takes is
measured. The first prompt of a template is rendered in a thread, and all of them if one was slow.
"""

from __future__ import annotations

import time
from datetime import datetime

from ..core.request import CompletionRequest
from ..prompting.prompt import Prompter, RenderedPrompt, Unrendered
from ..runtime.blocking import run_in_native_thread

SLOW = 0.02  # seconds of CPU
# Longer conversations are always rendered in a thread:
LONG = 256  # messages
LARGE = 256 << 10  # characters


def rendered(
    prompter: Prompter | Unrendered, request: CompletionRequest, now: datetime
) -> RenderedPrompt:
    """Render the prompt of a request. Raises InvalidParameter if the template refuses it."""
    if isinstance(prompter, Unrendered):
        return prompter.render(request, now)

    def timed() -> RenderedPrompt:
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
    return run_in_native_thread(timed)


def _is_long(request: CompletionRequest) -> bool:
    if len(request.messages) >= LONG:
        return True
    size = 0
    for message in request.messages:
        size += len(message.content)
        for call in message.tool_calls:
            size += len(call.arguments)
    return size > LARGE
