"""Downloads, as the gateway and ``slotproxy pull`` see them: a child process does the work."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import msgspec

from ..config.models import files_of
from ..errors import (
    BadRequest,
    Forbidden,
    GatewayError,
    NotFound,
    Unsupported,
    UpstreamFault,
    UpstreamTimeout,
)
from ..hosting.model_files import parts
from ..hosting.need import FACTOR
from ..runtime.confinement import environment
from ..runtime.subprocesses import Helper
from .child import Job, Said
from .choice import Reference

QUIET = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY")
PATIENCE = 60.0  # seconds for a list
LONGEST = 8 << 20  # bytes of a line of the child
_ERRORS = {400: BadRequest, 403: Forbidden, 404: NotFound}


@cache  # the page asks often
def is_installed() -> bool:
    return find_spec("huggingface_hub") is not None


def shown(reference: Reference) -> str:
    """As it is written."""
    return f"hf:{reference.repository}:{reference.quantization}".removesuffix(":")


def room(memory: int, cards: Sequence[int]) -> int:
    """The bytes of files that a model may have to fit, as far as its server's need is estimated
    before the first load; 0 for any."""
    return int((min(cards) * len(cards) if cards else memory) / FACTOR)


class Download:
    """A download under way, or a list; `listed` is set once the models are known, `ended` at the
    end. `finished` is called if the model is there."""

    def __init__(self, job: Job, finished: Callable[[], object] = lambda: None) -> None:
        """Raises Unsupported without the extra, UpstreamFault if there can be no child."""
        if not is_installed():
            raise Unsupported("downloads require the extra pull of slotproxy")
        self.reference = job.reference
        self.said = Said()
        self.checking = False
        self.error: GatewayError | None = None
        self.listed, self.ended = threading.Event(), threading.Event()
        self._finished = finished
        env = environment(whole=True) | dict.fromkeys(QUIET, "1")
        try:
            self._child = Helper("proxy.downloads.child", env)
            self._child.input.write(msgspec.json.encode(job) + b"\n")
            self._child.input.flush()
        except OSError as error:
            raise UpstreamFault("a download could not begin", detail=str(error)) from None
        threading.Thread(target=self._read, name="download", daemon=True).start()

    @property
    def bytes(self) -> int:
        """How many are there."""
        if not self.said.folder:
            return 0
        if self.ended.is_set() and self.error is None:
            return self.said.size
        total = 0
        with contextlib.suppress(OSError):  # renamed in this moment
            for entry in os.scandir(self.said.folder):
                total += entry.stat().st_size
        return min(total, self.said.size)

    def cancel(self) -> None:
        """End it now. What has arrived stays, for the next time."""
        if not self.ended.is_set():
            self.error = self.error or BadRequest("the download was cancelled")
            self._child.kill()

    def wait(self) -> None:
        """Wait for its end. Raises GatewayError."""
        self.ended.wait()
        if self.error is not None:
            raise self.error

    def _read(self) -> None:
        said, died = Said(), UpstreamFault("the download broke off: begin it again")
        try:
            while not (said.done or said.error):
                said = msgspec.json.decode(self._child.output.readline(LONGEST), type=Said)
                if said.models:
                    self.said = said
                    self.listed.set()
                self.checking = said.checking
        except (OSError, ValueError):
            self.error = self.error or died
        if said.error and self.error is None:
            self.error = _ERRORS.get(said.status, UpstreamFault)(said.error)
        if said.done:
            self.error = None  # cancelled too late
        self._child.close()
        self.ended.set()
        self.listed.set()
        if self.error is None:
            self._finished()


class Downloads:
    """Those into the folder of --models-dir, one at a time; `last` is the last one. `changed` is
    called when a model has come or gone."""

    def __init__(
        self, folder: str, fitting: Callable[[], int], changed: Callable[[], object]
    ) -> None:
        self._folder, self._fitting, self._changed = folder, fitting, changed
        self.last: Download | None = None
        self._lock = threading.Lock()

    @property
    def can_begin(self) -> bool:
        return bool(self._folder) and is_installed()

    def start(self, reference: Reference) -> Download:
        """Raises Unsupported, BadRequest, UpstreamFault."""
        with self._lock:
            if not self._folder:
                raise Unsupported("models are downloaded into the folder of --models-dir: set it")
            if self.last is not None and not self.last.ended.is_set():
                raise BadRequest(f"a download is under way: {shown(self.last.reference)}")
            folder = str(Path(self._folder).absolute())
            self.last = Download(Job(reference, folder, self._fitting()), self._changed)
            return self.last

    def offers(self, reference: Reference) -> tuple[Said, int]:
        """The models of a repository, and the bytes of files that fit. Raises GatewayError."""
        download = Download(Job(reference))
        try:
            if not download.ended.wait(PATIENCE):
                raise UpstreamTimeout("Hugging Face takes too long to answer")
            download.wait()
        finally:
            download.cancel()
        return download.said, self._fitting()

    def files(self) -> dict[str, list[Path]]:
        """Those of each model of the folder, by its name."""
        with contextlib.suppress(OSError):
            return files_of(self._folder) if self._folder else {}
        return {}

    def delete(self, name: str) -> None:
        """Remove the files of a model, and its folder if that is empty then. Raises NotFound."""
        files = self.files().get(name)
        if not files:
            raise NotFound(f"the folder of models has no model {name[:100]!r}", param="model")
        for file in chain.from_iterable(map(parts, files)):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other files are in it
            if files[0].parent != Path(self._folder):
                files[0].parent.rmdir()
        self._changed()

    def close(self) -> None:
        if self.last is not None:
            self.last.cancel()
