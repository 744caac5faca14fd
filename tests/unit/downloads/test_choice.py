"""Which files of a repository are downloaded."""

from __future__ import annotations

import pytest

from proxy.downloads.choice import (
    HubFile,
    Reference,
    choose,
    models,
    quantization_of,
    reference,
)
from proxy.errors import BadRequest, NotFound

GB = 10**9


def _files(**sizes: int) -> list[HubFile]:
    return [HubFile(f"Small-8B-{name}.gguf", size * GB) for name, size in sizes.items()]


REPOSITORY = _files(Q2_K=3, Q4_K_M=5, Q8_0=9, BF16=16)


@pytest.mark.parametrize("start", ["hf:", "hf.co/", "huggingface.co/"])
def test_reference_names_a_repository_and_a_quantization(start: str) -> None:
    assert reference(f"{start}Qwen/Qwen3-8B-GGUF") == Reference("Qwen/Qwen3-8B-GGUF")
    assert reference(f"{start}a.b/c_d-1.5:Q4_K_M") == Reference("a.b/c_d-1.5", "Q4_K_M")
    assert reference(f"{start}a/b:latest") == Reference("a/b")  # as Ollama's clients add


@pytest.mark.parametrize(
    "text",
    "llama3.2 hf: hf:model hf:a/b/c hf:../b hf:a/.. hf:a/b..c hf:a/--b hf:a--b/c hf:/a/b"
    " hf:a/b.git hf:.a/b hf:a/b. hf:a\\b/c hf:a/b%2fc hf:a/b\n hf:ä/b".split(" "),
)
def test_what_is_no_name_of_a_repository_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="hf:OWNER/REPO"):
        reference(text)


def test_a_name_is_bounded() -> None:
    with pytest.raises(BadRequest) as refused:
        reference(f"hf:a/{'b' * 10_000}")
    assert len(refused.value.message) < 400


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("Qwen3-8B-Q4_K_M", "Q4_K_M"),
        ("Qwen3-8B-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("gemma-3-4b-it-qat-q4_0", "Q4_0"),
        ("Llama-3.2-1B.i1-IQ4_XS", "IQ4_XS"),
        ("Phi-Q8-tuned-bf16", "BF16"),
        ("gpt-oss-20b-mxfp4", "MXFP4"),
        ("Qwen3-8B", ""),
        ("SEQ4X", ""),
    ],
)
def test_quantization_by_the_name_of_a_file(name: str, quantization: str) -> None:
    assert quantization_of(name) == quantization


def test_models_are_listed_by_size() -> None:
    listed = [(model.quantization, model.size) for model in models(REPOSITORY[::-1])]
    assert listed == [("Q2_K", 3 * GB), ("Q4_K_M", 5 * GB), ("Q8_0", 9 * GB), ("BF16", 16 * GB)]


def test_a_split_file_is_one_model() -> None:
    parts = [HubFile(f"Q8_0/Big-Q8_0-{n:05d}-of-00003.gguf", n * GB) for n in (2, 3, 1)]
    (model,) = models(parts)
    assert (model.name, model.quantization, model.size) == ("Big-Q8_0", "Q8_0", 6 * GB)
    assert [file.size for file in model.files] == [GB, 2 * GB, 3 * GB]
    assert model.files[0].name == "Big-Q8_0-00001-of-00003.gguf"


@pytest.mark.parametrize(
    ("numbers", "count"), [((1, 3), 3), ((2, 3), 3), ((1, 2, 4), 3), ((0, 1, 2), 3), ((1,), 99999)]
)
def test_a_split_file_without_a_part_is_no_model(numbers: tuple[int, ...], count: int) -> None:
    assert models([HubFile(f"Big-{n:05d}-of-{count:05d}.gguf", GB) for n in numbers]) == []


def test_a_projector_belongs_to_every_model() -> None:
    eyes = [HubFile(f"mmproj-{q}.gguf", GB) for q in ("F32", "F16", "Q8_0")]
    listed = models([*REPOSITORY, *eyes])
    assert {model.files[-1].path for model in listed} == {"mmproj-F16.gguf"}
    assert listed[0].size == 4 * GB


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd.gguf/..",
        "../../up/a.gguf",
        "/a.gguf",
        "a/..gguf",
        ".hidden.gguf",
        "a\\b.gguf",
        "C:x.gguf",
        "a b.gguf",
        "a\0.gguf",
        "a\n.gguf",
        "-m.gguf",
        "ä.gguf",
        f"{'a' * 300}.gguf",
        "README.md",
        "model.safetensors",
        "imatrix.gguf",
        "MMPROJ-F16.gguf",
    ],
)
def test_other_files_and_names_that_could_be_paths_are_no_models(path: str) -> None:
    assert models([HubFile(path, GB)]) == []


def test_a_folder_of_the_repository_is_not_one_here() -> None:
    (model,) = models([HubFile("up/Q4_0/model.gguf", GB)])
    assert (model.name, model.files[0].name) == ("model-Q4_0", "model.gguf")


def test_the_named_quantization_is_chosen() -> None:
    listed = models(REPOSITORY)
    assert choose(listed, "q8_0").quantization == "Q8_0"
    assert choose(listed, "Small-8B-Q2_K").quantization == "Q2_K"
    assert choose(listed, "BF16", room=GB).quantization == "BF16"  # as the caller says
    with pytest.raises(NotFound, match=r"no 'Q6_K': it has Q2_K \(3.0 GB\), Q4_K_M \(5.0 GB\)"):
        choose(listed, "Q6_K")


def test_without_one_the_usual_or_largest_that_fits_is_chosen() -> None:
    for files, chosen in (
        (REPOSITORY, {0: "Q4_K_M", 100: "Q4_K_M", 5: "Q4_K_M", 4: "Q2_K"}),
        (_files(Q2_K=3, Q3_K_S=4, Q6_K=7), {0: "Q6_K", 5: "Q3_K_S"}),
    ):
        for room, quantization in chosen.items():
            assert choose(models(files), room=room * GB).quantization == quantization


def test_if_none_fits_the_error_lists_them() -> None:
    with pytest.raises(BadRequest, match=r"fits: it has Q2_K \(3.0 GB\).*Name one to download"):
        choose(models(REPOSITORY), room=GB)


def test_several_models_of_a_quantization_must_be_named() -> None:
    listed = models([HubFile(f"{name}-Q4_K_M.gguf", GB) for name in ("base", "chat")])
    for quantization in ("", "Q4_K_M"):
        with pytest.raises(BadRequest, match="name one: base-Q4_K_M, chat-Q4_K_M"):
            choose(listed, quantization)
    assert choose(listed, "chat-Q4_K_M").name == "chat-Q4_K_M"


def test_a_repository_without_models_is_not_found() -> None:
    with pytest.raises(NotFound, match="no GGUF file"):
        choose(models([HubFile("model.safetensors", GB)]))
