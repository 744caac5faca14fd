"""Which files of a repository of GGUF files are a model, and which of the models is meant. Pure.

The names in a repository are anybody's text: only the last part of one becomes a file name here,
and only if it is made of plain characters.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from msgspec import Struct

from ..errors import BadRequest, NotFound

PREFIXES = ("hf:", "hf.co/", "huggingface.co/")  # the others are those of Ollama's clients
MAX_PARTS = 1000  # files of a model
MAX_NAMED = 30  # models in an error
# As the hub allows them; a name is one part of an owner and a repository.
_REPOSITORY = r"(?a)[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_FILE = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,150}\.gguf"
_PART = r"(?a)(.+)-(\d{5})-of-(\d{5})"
_QUANTIZATION = (
    r"(?i)(?<![^-._])((?:UD-)?(?:I?Q\d(?:_[A-Z\d]+)*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32))"
    r"(?![^-._])"
)
# Without a quantization in the reference, the first of these that fits; then the largest.
USUAL = ("Q4_K_M", "UD-Q4_K_XL", "Q4_K_S", "MXFP4_MOE", "MXFP4", "Q4_0", "Q8_0")


class Reference(Struct, frozen=True):
    """A repository OWNER/NAME, and a quantization or the name of a file without its end."""

    repository: str
    quantization: str = ""


class HubFile(Struct, frozen=True):
    """`sha256` is "" for a file whose digest the hub does not tell."""

    path: str
    size: int
    sha256: str = ""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class HubModel(Struct, frozen=True):
    """The parts of a model in their order, and its projector if the repository has one. `name` is
    that of its folder, and of the model here."""

    name: str
    quantization: str
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def reference(text: str) -> Reference:
    """Read ``hf:OWNER/REPO[:QUANT]``. Raises BadRequest."""
    rest = next((text.removeprefix(start) for start in PREFIXES if text.startswith(start)), "")
    repository, _, quantization = rest.partition(":")
    if (
        not re.fullmatch(_REPOSITORY, repository)
        or len(repository) > 96
        or "--" in repository
        or ".." in repository
        or repository.endswith((".git", ".", "-"))
    ):
        raise BadRequest(
            f"{text[:100]!r} names no repository of Hugging Face: use hf:OWNER/REPO or"
            " hf:OWNER/REPO:QUANTIZATION, as hf:Qwen/Qwen3-8B-GGUF:Q4_K_M",
            param="model",
        )
    return Reference(repository, "" if quantization == "latest" else quantization)


def models(files: Sequence[HubFile]) -> list[HubModel]:
    """The models among the files of a repository, the smallest first. One that lacks a part, or
    whose name could be a path, is none."""
    parts: defaultdict[str, dict[int, HubFile]] = defaultdict(dict)
    counts: dict[str, int] = {}
    projectors: list[HubFile] = []
    for file in files:
        strange = not re.fullmatch(_FILE, file.name) or {"", ".."} & {*file.path.split("/")}
        if strange or file.size <= 0 or "imatrix" in file.name.lower():
            continue
        if file.name.lower().startswith("mmproj"):
            projectors += [file] * file.name.startswith("mmproj")  # as the folder knows them
            continue
        whole, number, count = file.path.removesuffix(".gguf"), 1, 1
        if split := re.fullmatch(_PART, whole):
            whole, number, count = f"{split[1]}/{split[3]}", int(split[2]), int(split[3])
        parts[whole][number] = file
        counts[whole] = count
    eyes = tuple(sorted(projectors, key=_preference)[:1])
    complete = [
        _model([numbered[number] for number in sorted(numbered)], eyes)
        for whole, numbered in parts.items()
        if counts[whole] <= MAX_PARTS and set(numbered) == {*range(1, counts[whole] + 1)}
    ]
    named = {model.name.lower(): model for model in complete}  # each has a folder of its name
    return sorted(named.values(), key=lambda model: (model.size, model.name))


def choose(models: Sequence[HubModel], quantization: str = "", room: int = 0) -> HubModel:
    """The model of this quantization, or file name; without one, the usual one, or the largest, of
    those whose files have at most `room` bytes, 0 for any. Raises NotFound, BadRequest."""
    if not models:
        raise NotFound("the repository has no GGUF file of a model", param="model")
    name = quantization.lower()
    if name:
        fitting = [
            model for model in models if name in (model.name.lower(), model.quantization.lower())
        ]
        if not fitting:
            why = f"the repository has no {quantization[:60]!r}: it has {_named(models)}"
            raise NotFound(why, param="model")
    else:
        fitting = [model for model in models if not room or model.size <= room]
        if not fitting:
            why = f"no model of the repository fits: it has {_named(models)}"
            raise BadRequest(f"{why}. Name one to download it all the same", param="model")
        usual = [model for quant in USUAL for model in fitting if model.quantization == quant]
        fitting = [model for model in usual if model.quantization == usual[0].quantization] or [
            fitting[-1]
        ]
    if len(fitting) > 1:
        names = ", ".join(model.name for model in fitting[:MAX_NAMED])
        why = f"several models are meant, name one: {names}"
        raise BadRequest(why, param="model")
    return fitting[0]


def _model(files: Sequence[HubFile], projector: tuple[HubFile, ...]) -> HubModel:
    stem = files[0].name.removesuffix(".gguf")
    split = re.fullmatch(_PART, stem)
    name = split[1] if split else stem
    folder = files[0].path.rpartition("/")[0].rpartition("/")[2]
    quantization = quantization_of(name)
    if not quantization and (quantization := quantization_of(folder)):
        name = f"{name}-{quantization}"  # that of its folder, as Q4_K_M/model.gguf
    return HubModel(name, quantization, (*files, *projector))


def quantization_of(name: str) -> str:
    """By the name of a file, "" if that does not tell."""
    named = re.findall(_QUANTIZATION, name)
    return named[-1].upper() if named else ""


def _preference(file: HubFile) -> tuple[bool, int, str]:
    """Of projectors: F16 at first, which all cards compute."""
    return quantization_of(file.name.removesuffix(".gguf")) != "F16", file.size, file.path


def _named(models: Sequence[HubModel]) -> str:
    listed = [f"{m.quantization or m.name} ({m.size / 1e9:.1f} GB)" for m in models[:MAX_NAMED]]
    return ", ".join([*listed, "…"] if len(models) > MAX_NAMED else listed)
