"""The tokens of an answer, which may take several runs."""

from __future__ import annotations

from msgspec import Struct

from ..core.usage import Usage


class TokenCounts(Struct, eq=False):
    """Token counts of one choice over all of its runs, each token counted once. `prompt` and
    `cached` are those of the first run; `prompt` is 0 if it was closed before its backend reported
    it."""

    limit: int = 0  # the maximum length of the answer
    prompt: int = 0
    cached: int = 0
    written: int = 0  # in closed runs
    wasted: int = 0  # in discarded documents
    resumed: int = 0  # how often the answer continued on another run
    switched: bool = False  # the current run began after a text that was cut off
    several: bool = False  # it began after others, whose tokens are all counted

    @property
    def left(self) -> int:
        return self.limit - self.written

    def close_run(self, run: Usage) -> None:
        if not self.prompt:
            self.prompt, self.cached = run.prompt, run.cached
        self.written += run.completion

    def discard(self) -> None:
        """Discard the answer so far, which will be written again."""
        self.wasted += self.written
        self.prompt = self.cached = self.written = 0
        self.switched = self.several = False

    def so_far(self, run: Usage) -> Usage:
        prompt, cached = (self.prompt, self.cached) if self.prompt else (run.prompt, run.cached)
        completion = self.wasted + self.written + run.completion
        return Usage(prompt, completion, cached, continued=self.resumed)

    def at_end(self, run: Usage) -> Usage:
        """All counts of several runs, including those that the backend reported at the end of the
        last one. The prompt that it reports includes the text of the earlier runs."""
        before = self.written
        if self.switched and self.prompt:  # exact; the count of a text cut off is estimated
            before = max(0, run.prompt - self.prompt)
        prompt = self.prompt or max(1, run.prompt - before)
        cached = self.cached if self.prompt else min(run.cached, prompt)
        completion = self.wasted + before + run.completion
        return Usage(prompt, completion, cached, continued=self.resumed)
