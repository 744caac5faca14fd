"""Families by the names of model files."""

from __future__ import annotations

import pytest

from proxy.prompting.template.families import FAMILIES, family_of

KNOWN = {
    "chatml": "SmolLM2-135M-Instruct openhermes-2.5-mistral-7b dolphin-2.9-llama3-8b",
    "qwen": "qwen2.5-7b-instruct-q4_k_m Qwen3-30B-A3B-Instruct-2507-Q4_K_M Qwen1_5-14B-Chat",
    "llama-3": "Meta-Llama-3.1-8B-Instruct.Q4_K_M Llama-3.3-70B-Instruct",
    "llama-2": "llama-2-7b-chat.Q4_0 codellama-13b-instruct.Q5_K_M",
    "mistral": "mistral-7b-instruct-v0.2.Q4_K_M mixtral-8x7b-instruct-v0.1",
    "deepseek": "DeepSeek-R1-Distill-Qwen-7B deepseek-v3-0324",
    "hermes": "Hermes-3-Llama-3.1-8B",
    "gemma": "gemma-2-9b-it-Q4_K_M gemma-7b-it",
    "phi-3": "Phi-3-mini-4k-instruct-q4 Phi-3.5-mini-instruct",
    "vicuna": "vicuna-13b-v1.5",
    "zephyr": "zephyr-7b-beta tinyllama-1.1b-chat-v1.0.Q4_K_M",
    "chatglm3": "chatglm3-6b",
    "glm-4": "glm-4-9b-chat GLM-4-32B-0414",
    "command-r": "c4ai-command-r-v01-Q4_K_M c4ai-command-r-plus-08-2024",
    "bamboo": "bamboo-7b-dpo-v0.1.powerinfer bamboo-base-7b",
    "relullama": "prosparse-llama-2-7b ReluLLaMA-7B",
    "turbosparse": "TurboSparse-Mixtral",
}
OTHERS = (  # base models, and models of other formats
    "default model ggml-model-q4_0 tinychat-llama Mistral-7B-v0.1 Meta-Llama-3-8B qwen2.5-7b-base"
    " gemma-2-9b gemma-4-e4b-it phi-4 GLM-4.6 glm-4v-9b command-r7b-12-2024 command-a-03-2025"
    " Mistral-Small-3.2-24B-Instruct-2506 Mistral-Nemo-Instruct-2407 Llama-3.1-Nemotron-Nano-8B-v1"
    " functionary-small-v3.2 nomic-embed-text-v1.5 stablelm-zephyr-3b nous-hermes-llama2-13b"
    " deepseek-coder-6.7b-instruct starcoder"
)


@pytest.mark.parametrize("family", KNOWN)
def test_chat_models_of_a_known_format_are_recognised(family: str) -> None:
    assert family in FAMILIES
    names = KNOWN[family].split()
    assert [family_of(name) for name in names] == [family] * len(names)


def test_other_names_tell_nothing() -> None:
    assert [name for name in ("", *OTHERS.split()) if family_of(name)] == []


def test_long_name_costs_little() -> None:
    assert family_of("-" * 10_000_000 + "qwen") == ""
