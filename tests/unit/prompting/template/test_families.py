"""Families by the names of model files."""

from __future__ import annotations

import pytest

from proxy.prompting.template.families import _RULES, FAMILIES, family_of


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("SmolLM2-135M-Instruct", "chatml"),
        ("qwen2.5-7b-instruct-q4_k_m", "qwen"),
        ("Qwen3-30B-A3B-Instruct-2507-Q4_K_M", "qwen"),
        ("Qwen1_5-14B-Chat", "qwen"),
        ("Meta-Llama-3.1-8B-Instruct.Q4_K_M", "llama-3"),
        ("Llama-3.3-70B-Instruct", "llama-3"),
        ("llama-2-7b-chat.Q4_0", "llama-2"),
        ("codellama-13b-instruct.Q5_K_M", "llama-2"),
        ("mistral-7b-instruct-v0.2.Q4_K_M", "mistral"),
        ("mixtral-8x7b-instruct-v0.1", "mistral"),
        ("DeepSeek-R1-Distill-Qwen-7B", "deepseek"),
        ("deepseek-v3-0324", "deepseek"),
        ("Hermes-3-Llama-3.1-8B", "hermes"),
        ("openhermes-2.5-mistral-7b", "chatml"),
        ("dolphin-2.9-llama3-8b", "chatml"),
        ("gemma-2-9b-it-Q4_K_M", "gemma"),
        ("gemma-7b-it", "gemma"),
        ("Phi-3-mini-4k-instruct-q4", "phi-3"),
        ("Phi-3.5-mini-instruct", "phi-3"),
        ("vicuna-13b-v1.5", "vicuna"),
        ("zephyr-7b-beta", "zephyr"),
        ("tinyllama-1.1b-chat-v1.0.Q4_K_M", "zephyr"),
        ("chatglm3-6b", "chatglm3"),
        ("glm-4-9b-chat", "glm-4"),
        ("GLM-4-32B-0414", "glm-4"),
        ("c4ai-command-r-v01-Q4_K_M", "command-r"),
        ("c4ai-command-r-plus-08-2024", "command-r"),
        ("bamboo-7b-dpo-v0.1.powerinfer", "bamboo"),
        ("bamboo-base-7b", "bamboo"),
        ("prosparse-llama-2-7b", "relullama"),
        ("ReluLLaMA-7B", "relullama"),
        ("TurboSparse-Mixtral", "turbosparse"),
    ],
)
def test_chat_models_of_a_known_format_are_recognised(name: str, family: str) -> None:
    assert family_of(name) == family


@pytest.mark.parametrize(
    "name",
    [
        "",
        "default",
        "model",
        "ggml-model-q4_0",
        "tinychat-llama",
        "Mistral-7B-v0.1",  # base
        "Meta-Llama-3-8B",
        "qwen2.5-7b-base",
        "gemma-2-9b",
        "gemma-4-e4b-it",  # another format
        "phi-4",
        "GLM-4.6",
        "glm-4v-9b",
        "command-r7b-12-2024",
        "command-a-03-2025",
        "Mistral-Small-3.2-24B-Instruct-2506",
        "Mistral-Nemo-Instruct-2407",
        "Llama-3.1-Nemotron-Nano-8B-v1",
        "functionary-small-v3.2",
        "nomic-embed-text-v1.5",
        "stablelm-zephyr-3b",
        "nous-hermes-llama2-13b",
        "deepseek-coder-6.7b-instruct",
        "starcoder",
    ],
)
def test_other_names_tell_nothing(name: str) -> None:
    assert family_of(name) == ""


def test_every_family_is_shipped() -> None:
    assert {family for _, family in _RULES if family} <= FAMILIES.keys()


def test_long_name_costs_little() -> None:
    assert family_of("-" * 10_000_000 + "qwen") == ""
