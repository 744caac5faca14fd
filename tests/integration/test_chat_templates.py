"""The prompts of slotproxy equal those of llama-server, for the chat templates of llama.cpp.

Each template is given to a llama-server of 2026, which renders every conversation of
`tests.conversations` at /apply-template. slotproxy's prompt must be the same text, unless the
server refuses the conversation or loses a text of it, or `WANTED` has the reason. With ``-s`` each
template prints how many prompts are the same.

The servers have a model of random weights; the prompts do not depend on it.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import pytest

from proxy.apis.openai import chat as openai_chat
from proxy.prompting.prompt import Prompter
from proxy.prompting.template import templates
from tests import documents
from tests.conversations import ALL, Body, texts
from tests.thorough import FEW
from tools import chat_cases, made_up_mmproj, servers
from tools.processes import Gateway, ModelServer, ask

SERVER = "llama-2026"
BINARY = servers.find(SERVER)
FOLDER = BINARY.parent / chat_cases.TEMPLATES if BINARY else Path()
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))

HISTORY = "the answer begins as the template writes answers in its history"
TRAINED = "empty thoughts have the line breaks of those that models were trained with"
NO_THOUGHTS = "no empty thoughts are put before the answer, since the template writes none"
LIKE_BEFORE = "a late system message moves in every turn alike, so that the prompt's prefix stays"
PARTS = "the template takes parts, which the server's analysis does not see"
EFFORT = "an effort that the client names switches thinking on"
SWITCH = "the template's own variables for thinking and effort are set as the client says"
BESIDE = "the template writes no text beside calls, nor a second answer"
WANTED: Mapping[str, Mapping[str, str]] = {
    "Apertus-8B-Instruct": {"effort high": EFFORT},
    "Apriel-1.6-15b-Thinker-fixed": {"prefill": HISTORY},
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": {"prefill": HISTORY},
    "GLM-4.6": {"prefill": HISTORY},
    "HuggingFaceTB-SmolLM3-3B": {"prefill": NO_THOUGHTS},
    "Kimi-K2-Instruct": {"prefill": NO_THOUGHTS},
    "Kimi-K3": {"thinking off": SWITCH, "effort none": SWITCH, "effort high": SWITCH},
    "LFM2-8B-A1B": {"prefill": NO_THOUGHTS},
    "LFM2.5-8B-A1B": {"text parts": PARTS, "result parts": PARTS},
    "LFM2.5-Instruct": {"prefill": NO_THOUGHTS},
    "Mistral-Small-3.2-24B-Instruct-2506": {"system last": LIKE_BEFORE, "result parts": BESIDE},
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": {"prefill": HISTORY},
    "NVIDIA-Nemotron-Nano-v2": {"prefill": TRAINED},
    "Qwen-QwQ-32B": {"prefill": TRAINED},
    "StepFun3.5-Flash": {"prefill": HISTORY},
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": {"prefill": TRAINED, "system last": LIKE_BEFORE},
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": {"prefill": TRAINED, "system last": LIKE_BEFORE},
    "deepseek-ai-DeepSeek-V4": {"prefill": HISTORY},
    "deepseek-ai-DeepSeek-V4-Flash-0731": {"prefill": HISTORY},
    "google-gemma-2-2b-it": {"system last": LIKE_BEFORE},
    "google-gemma-4-31B-it": {"prefill": NO_THOUGHTS},
    "google-gemma-4-31B-it-interleaved": {"prefill": NO_THOUGHTS},
    "ibm-granite-granite-3.3-2B-Instruct": {"prefill": NO_THOUGHTS},
    "llama-cpp-deepseek-r1": {"prefill": TRAINED, "system last": LIKE_BEFORE},
    "llama-cpp-rwkv-world": {"prefill": TRAINED, "system last": LIKE_BEFORE},
    "microsoft-Phi-3.5-mini-instruct": {"prefill": HISTORY},
    "mistralai-Mistral-Nemo-Instruct-2407": {"result parts": BESIDE},
    "moonshotai-Kimi-K2": {"prefill": NO_THOUGHTS},
    "poolside-Laguna-XS-2.1": {"prefill": HISTORY},
    "poolside-Laguna-XS.2": {"prefill": HISTORY},
    "unsloth-mistral-Devstral-Small-2507": {"prefill": NO_THOUGHTS},
    "upstage-Solar-Open-100B": {"prefill": HISTORY},
}
"""By template and conversation, why slotproxy's prompt is another one."""
AS_OBJECT = re.compile(r"""'type': 'text'|type:<\|"\|>text""")
"""Parts in a prompt as the text of objects."""


def _flags(name: str) -> list[str]:
    return ["--chat-template-file", str(FOLDER / f"{name}.jinja")]


def _apply(url: str, body: Body) -> str | None:
    """The server's prompt, None if it refuses."""
    status, answer = ask(f"{url}/apply-template", body)
    assert status, "the server does not answer"
    return str(json.loads(answer)["prompt"]) if status == 200 else None


def _differs(body: Body, own: str, servers_own: str | None) -> str:
    """Why a prompt may differ from the server's; "" for no reason."""
    lost = {text for text in texts(body) if text not in own}
    if servers_own is None:
        return "" if lost else "the server refuses it"
    if lost < {text for text in texts(body) if text not in servers_own}:
        return "the server loses a text"
    if AS_OBJECT.search(servers_own) and not AS_OBJECT.search(own):
        return "the server writes parts as objects"
    return ""


def _reason(name: str, key: str, own: str, servers_own: str | None) -> str:
    return _differs(ALL[key], own, servers_own) or WANTED.get(name, {}).get(key, "")


@pytest.mark.skipif(FEW, reason="make test-all runs it")
@pytest.mark.parametrize("name", NAMES)
def test_prompts_equal_those_of_llama_server(
    name: str, start_server: Callable[..., ModelServer]
) -> None:
    server = start_server(SERVER, slots=1, ctx=512, extra=_flags(name))
    try:
        props = json.loads(ask(f"{server.url}/props")[1])
        prompts = {key: _apply(server.url, body) for key, body in ALL.items()}
    finally:
        server.kill()
    form = templates.compile(props["chat_template"], f"of {name}")
    prompter = Prompter(form, props["bos_token"], props["eos_token"])
    reasons: dict[str, str] = {}
    for key, body in ALL.items():
        own = prompter.render(openai_chat.parse(body), datetime.now()).text
        if own != prompts[key]:
            reasons[key] = _reason(name, key, own, prompts[key])
    counts = Counter(reasons.values())
    summary = ", ".join(f"{count} {reason or 'WRONG'}" for reason, count in counts.items())
    print(f"{name}: {len(ALL) - len(reasons)} same; {summary}")
    assert not [key for key, reason in reasons.items() if not reason]
    assert WANTED.get(name, {}).keys() <= reasons.keys(), "a wanted difference is gone"


@pytest.mark.skipif(FEW, reason="make test-all runs it")
@pytest.mark.parametrize(
    "name",
    [
        "Kimi-K2-Instruct",
        "Qwen-Qwen3-0.6B",
        "google-gemma-2-2b-it",
        "meta-llama-Llama-3.2-3B-Instruct",
        "mistralai-Mistral-Nemo-Instruct-2407",
        "Qwen3-Coder",
    ],
)
def test_prompts_reach_the_server(
    name: str, start_server: Callable[..., ModelServer], gateway: Callable[..., Gateway]
) -> None:
    """Through the whole program: the server tells the prompt that it evaluated."""
    server = start_server(SERVER, slots=1, ctx=16384, extra=_flags(name))
    url = gateway("--llama-api", server.url).url
    wrong = []
    for key in ALL.keys() - {"long result", "required"}:
        body = {**ALL[key], "verbose": True, "max_tokens": 1}
        status, answer = ask(f"{url}/v1/chat/completions", body)
        assert status == 200, (key, answer)
        own = json.loads(answer)["__verbose"]["prompt"].removeprefix("<s> ")
        own = own.replace("</s> ", "</s>")  # the vocabulary writes a space behind them
        prompt = _apply(server.url, ALL[key])
        if own != prompt and not _reason(name, key, own, prompt):
            wrong.append(key)
    server.kill()
    assert not wrong


@pytest.mark.skipif(FEW, reason="make test-all runs it")
def test_images_stay_between_their_texts(
    start_server: Callable[..., ModelServer],
    gateway: Callable[..., Gateway],
    made_up_model: Path,
) -> None:
    projector = made_up_mmproj.cached(made_up_model)
    flags = [*_flags("Qwen3.5-4B"), "--mmproj", str(projector)]
    server = start_server(SERVER, slots=1, extra=flags)
    url = gateway("--llama-api", server.url).url
    image = base64.b64encode(documents.png(255, 0, 0)).decode()
    shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    said = [{"type": "text", "text": text} for text in ("Above", "Left", "Right", "Below")]
    body = {"messages": [{"role": "user", "content": [*said[:2], shown, *said[2:]]}]}
    request = {**body, "verbose": True, "max_tokens": 1}
    prompts = {
        json.loads(ask(f"{base}/v1/chat/completions", request)[1])["__verbose"]["prompt"]
        for base in (url, server.url)
    }
    assert len(prompts) == 1
