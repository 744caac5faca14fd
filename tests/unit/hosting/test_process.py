"""What is known of a model's process from outside."""

from __future__ import annotations

import os
from pathlib import Path

from proxy.hosting.process import MAX_PARTS, OVERHEAD, estimated, parts, resident

from . import fakes


def test_estimate_is_the_size_of_the_files_and_a_tenth(tmp_path: Path) -> None:
    for name, size in {"m.gguf": 1000, "p.gguf": 200, "other.bin": 5000}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    command = "server -m m.gguf --mmproj=p.gguf --other other.bin --lora no.gguf ${PORT}"
    assert estimated(fakes.config(command, folder=str(tmp_path))) == 1320 + OVERHEAD


def test_all_parts_of_a_split_model_count() -> None:
    assert [path.name for path in parts(Path("x-00001-of-00003.gguf"))] == [
        f"x-0000{number}-of-00003.gguf" for number in (1, 2, 3)
    ]
    assert len(list(parts(Path("x-00001-of-99999.gguf")))) == MAX_PARTS


def test_memory_of_a_session_is_read() -> None:
    assert resident(os.getsid(0)) > 0
    assert resident(2**30) == 0
