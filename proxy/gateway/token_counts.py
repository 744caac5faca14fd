"""Token counts of one choice over all of its runs, each token counted once."""

from __future__ import annotations

from ..core.usage import Usage


class TokenCounts:
    """`limit` is the maximum length of the answer in tokens. `written` counts the tokens of closed
    runs, `wasted` those of discarded documents. `prompt` and `cached` are those of the first run;
    `prompt` is 0 if it was closed before its backend reported it. `resumed` counts how often the
    answer continued on another run. `switched`: the current run began after a text that was cut
    off."""

    __slots__ = (
        "cached",
        "limit",
        "prompt",
        "resumed",
        "switched",
        "wasted",
        "written",
    )

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.prompt = self.cached = self.written = self.wasted = self.resumed = 0
        self.switched = False

    @property
    def left(self) -> int:
        return self.limit - self.written

    def close_run(self, run: Usage) -> None:
        if not self.prompt:
            self.prompt, self.cached = run.prompt, run.cached
        self.written += run.completion

    def throw_away(self) -> None:
        """Discard the answer so far, which will be written again."""
        self.wasted += self.written
        self.prompt = self.cached = self.written = 0
        self.switched = False

    def so_far(self, run: Usage) -> Usage:
        """All counts, including those of the current run so far."""
        prompt, cached = (self.prompt, self.cached) if self.prompt else (run.prompt, run.cached)
        completion = self.wasted + self.written + run.completion
        return Usage(prompt, completion, cached, continued=self.resumed)

    def at_end(self, run: Usage) -> Usage:
        """All counts, including those that the backend reported at the end of the last run. The
        prompt that it reports includes the text of the earlier runs."""
        if not (self.switched or self.resumed or self.wasted):
            return run
        before = self.written
        if self.switched and self.prompt:  # exact; the count of a text cut off is estimated
            before = max(0, run.prompt - self.prompt)
        prompt = self.prompt or max(1, run.prompt - before)
        cached = self.cached if self.prompt else min(run.cached, prompt)
        completion = self.wasted + before + run.completion
        return Usage(prompt, completion, cached, continued=self.resumed)
