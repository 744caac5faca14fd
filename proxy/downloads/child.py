"""The child process of a download: lists a repository of Hugging Face, transfers the files of a
model into a hidden folder beside the other models, checks them, and renames the folder.

The first line of its input is the `Job`, its output lines of `Said`. It may be killed at any time:
what was transferred stays, and the next download of the same files continues it. The library
resumes within a call only, so the parts are kept here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..errors import BadRequest, Forbidden, GatewayError, NotFound, UpstreamFault
from ..runtime.subprocesses import channel, end_with_input
from .choice import HubFile, HubModel, Reference, choose, models

HIDDEN = ".downloads"  # in the folder of models; never a model itself
SPARE = 256 << 20  # bytes that stay free on the disk
CHUNK = 256 << 10  # bytes that a cut loses at most; the library's 10 MB are much on a bad line
TRIES = 5  # without a new byte
MAX_FILES = 20_000  # of a repository
TOKEN = "set HF_TOKEN to a token of Hugging Face that may read it"


class Job(Struct, frozen=True):
    """`folder` is that of the models, "" to list only; `room` as for `choose`."""

    reference: Reference
    folder: str = ""
    room: int = 0


class Said(Struct, frozen=True, omit_defaults=True):
    """What the child says: at first the models and which one is chosen; at the end, that it is
    `done`, or an error. `folder` grows by the bytes that arrive."""

    models: tuple[HubModel, ...] = ()
    context: int = 0  # tokens for which they were made, 0 if unknown
    chosen: str = ""
    size: int = 0
    folder: str = ""
    checking: bool = False
    done: bool = False
    error: str = ""
    status: int = 0


def carry_out(job: Job, say: Callable[[Said], None]) -> None:
    """List and download. Raises GatewayError, OSError, and what the library raises."""
    from huggingface_hub import HfApi

    repository = job.reference.repository
    info = HfApi().model_info(repository, files_metadata=True, timeout=30.0)
    files = [_hub_file(entry) for entry in (info.siblings or ())[:MAX_FILES]]
    listed = models(files)
    context = (info.gguf or {}).get("context_length", 0)
    first = Said(tuple(listed), context if isinstance(context, int) else 0)
    if not job.folder:
        say(replace(first, done=True))
        return
    model = choose(listed, job.reference.quantization, job.room)
    digest = hashlib.sha256(repr(model.files).encode()).hexdigest()  # other contents, another place
    target, parts = Path(job.folder, model.name), Path(job.folder, HIDDEN, f"{model.name}.{digest}")
    if target.exists() or target.with_name(f"{model.name}.gguf").exists():
        raise BadRequest(f"the model {model.name} exists already", param="model")
    parts.mkdir(parents=True, exist_ok=True)
    _lock(parts.parent)
    say(replace(first, chosen=model.name, size=model.size, folder=str(parts)))
    left = model.size - sum(path.stat().st_size for path in parts.iterdir())
    free = shutil.disk_usage(parts).free
    if left + SPARE > free:
        why = f"{model.name} needs {left / 1e9:.1f} GB more, and the disk has {free / 1e9:.1f} GB"
        raise BadRequest(why, param="model")
    for file in model.files:
        if not (parts / file.name).exists():
            part = parts / f"{file.name}.part"
            _transfer(repository, info.sha or "main", file, part)
            say(Said(checking=True))
            _check(file, part)
            part.rename(parts / file.name)
            say(Said())
    parts.rename(target)
    for rest in parts.parent.glob(f"{model.name}.{'?' * len(digest)}"):
        shutil.rmtree(rest, ignore_errors=True)  # of another revision
    say(Said(done=True))


def _hub_file(entry: Any) -> HubFile:
    """A file of the list, which is anybody's JSON."""
    size = getattr(entry.lfs, "size", None) or entry.size
    sha256 = getattr(entry.lfs, "sha256", None)
    if not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
        sha256 = ""
    return HubFile(str(entry.rfilename), size if isinstance(size, int) else 0, sha256)


def _lock(folder: Path) -> None:
    """Refuse a second download into the same models, of any process, until this process ends."""
    import fcntl  # not on Windows, where no models are started

    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadRequest("another download into this folder is under way") from None


def _transfer(repository: str, revision: str, file: HubFile, part: Path) -> None:
    """Complete the part, from the library's cache or the hub, after any number of cuts in which
    something arrives."""
    import httpx2
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    cached = try_to_load_from_cache(repository, file.path, revision=revision)
    if isinstance(cached, str):
        shutil.copyfile(cached, part)
    url, tries, size_before = hf_hub_url(repository, file.path, revision=revision), 0, -1
    while True:
        with part.open("ab") as opened:
            if opened.tell() > file.size:
                opened.truncate(0)
            size = opened.seek(0, os.SEEK_END)
            tries = tries + 1 if size == size_before else 0
            size_before = size
            try:
                http_get(
                    url,
                    opened,
                    resume_size=size,
                    headers=build_hf_headers(),
                    expected_size=file.size,
                )
                return
            except httpx2.TransportError:
                if tries == TRIES:
                    raise
        time.sleep(min(tries, 2))  # a hub that sends nothing is left alone for a moment


def _check(file: HubFile, part: Path) -> None:
    """Raises UpstreamFault, and removes a part that is not what the hub said."""
    with part.open("rb") as opened:
        os.fsync(opened.fileno())
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        size = opened.tell()
    if size != file.size or (file.sha256 and digest != file.sha256):
        part.unlink()
        raise UpstreamFault(f"{file.name} arrived damaged (its checksum differs): try again")


def _failure(error: Exception, repository: str) -> GatewayError:
    """The error in our own words; those of the library name requests and headers."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, GatewayError):
        return error
    if isinstance(error, errors.GatedRepoError):
        return Forbidden(f"{repository} is gated: accept its terms on its page, and {TOKEN}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotFound(f"there is no repository {repository}, or it is private: {TOKEN}")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return Forbidden(f"Hugging Face refuses {repository} (status {status}): {TOKEN}")
        return UpstreamFault(f"Hugging Face answers with status {status}")
    if isinstance(error, httpx2.TransportError | ConnectionError):
        return UpstreamFault(f"Hugging Face cannot be reached ({type(error).__name__})")
    if isinstance(error, OSError) and error.errno:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return BadRequest("the disk is full" if full else f"cannot write: {error.strerror}")
    return UpstreamFault(f"the download failed ({type(error).__name__})")


def main() -> None:
    lines, output = channel()
    job = msgspec.json.decode(lines.readline(), type=Job)
    end_with_input(lines)

    def say(said: Said) -> None:
        output.write(msgspec.json.encode(said) + b"\n")

    try:
        carry_out(job, say)
    except Exception as error:
        failure = _failure(error, job.reference.repository)
        say(Said(error=failure.message, status=failure.status))
    os._exit(0)


if __name__ == "__main__":
    main()
