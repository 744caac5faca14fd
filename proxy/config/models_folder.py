"""The models of --models-dir: GGUF files, and folders of files belonging together, laid out as in
llama-server's router mode: a model with a projector, or in parts, may have a folder of its name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .models import MAX_FILES, MAX_NAME, PORT, ModelConfig, words


def of_folder(folder: str, server: str, ttl: float) -> tuple[ModelConfig, ...]:
    """A model for each file, or folder of files, named by it. `server` is the command of a
    llama-server, without model, host and port. A folder may be empty, until a model is downloaded.
    Raises ValueError."""
    own = words(server)
    if not own:
        raise ValueError("--llama-server: expected a program")
    models: list[ModelConfig] = []
    try:
        if not Path(folder).is_dir():
            raise ValueError(f"{folder} is not a folder")
        for name, files in _all(Path(folder)):
            if not (name.isprintable() and len(name) <= MAX_NAME):
                raise ValueError(f"{name!r}: rename this, it cannot be the name of a model")
            if len(models) == MAX_FILES:
                raise ValueError(f"{folder} contains more than {MAX_FILES} models")
            command = (*own, *files, "--host", "127.0.0.1", "--port", PORT)
            models.append(ModelConfig(name=name, command=command, ttl=ttl, save_slots=True))
    except OSError as error:
        raise ValueError(f"cannot read {folder}: {error.strerror}") from None
    return tuple(models)


def of_files(folder: Path, eyes: bool = True) -> list[tuple[str, tuple[str, ...]]]:
    """The name of each model in this very folder, and the flags with its file and projector."""
    models = []
    projector: tuple[str, ...] = ()
    for path in sorted(folder.glob("*.gguf")):
        name = re.sub(r"-00001-of-\d{5}$", "", path.stem)
        if name.startswith("mmproj"):
            projector = projector or ("--mmproj", str(path))
        elif not re.search(r"-\d{5}-of-\d{5}$", name):
            models.append((name, path))
    return [(name, ("-m", str(path), *(projector if eyes else ()))) for name, path in models]


def files_of(folder: str) -> dict[str, list[Path]]:
    """The files of each model that --models-dir has, by its name: without the further parts of a
    split one, and a projector that serves other models too. Raises OSError."""
    return {
        name: [Path(path), *(Path(file) for file in projector[1:] if "/" not in name)]
        for name, (_, path, *projector) in _all(Path(folder))
    }


def _all(folder: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """The name of each model, and the flags with its files."""
    yield from of_files(folder, eyes=False)
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        models = of_files(inner)
        for name, flags in models:
            yield inner.name if len(models) == 1 else f"{inner.name}/{name}", flags
