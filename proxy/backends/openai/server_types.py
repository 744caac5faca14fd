"""What each server that speaks OpenAI's API takes beyond it.

A server tells its type in ``owned_by`` of the models that it lists; Ollama, which writes the
owner of the model there, answers at ``/api/version``. A server of unknown type gets OpenAI's own
fields only: many refuse, or silently ignore, any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from ...core.request import REQUIRED, TOOLS
from ...core.sampling import FIELDS

# OpenAI's own sampling fields (see "Create chat completion" in its API reference). Their names and
# meanings are server.cpp's, too, except for the form of logit_bias.
STANDARD: Mapping[str, str] = {
    name: name
    for name in (
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "logit_bias",
    )
}
_VLLM = {
    **STANDARD,
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "ignore_eos": "ignore_eos",
}


class Tokenizer(Struct, frozen=True, kw_only=True):
    """The routes that convert texts to tokens and back, below the server's root. `asks` is the
    field of the text to convert, and `special` that to add special tokens, "" for none; `text` is
    the field of the converted text. `template`: how messages become a prompt: `apply`, by
    llama-server's /apply-template; `messages`, by the same route; `joined`: the server cannot, so
    their texts are joined."""

    path: str = "/tokenize"
    back: str = "/detokenize"
    asks: str = "content"
    special: str = "add_special"
    text: str = "content"
    template: Literal["apply", "messages", "joined"] = "apply"


_LLAMA_SERVERS = Tokenizer()
_VLLMS = Tokenizer(asks="prompt", special="add_special_tokens", text="prompt", template="messages")
_PYTHONS = Tokenizer(
    path="/extras/tokenize",
    back="/extras/detokenize",
    asks="input",
    special="",
    text="text",
    template="joined",
)


class ServerType(Struct, frozen=True, kw_only=True):
    """`name` is shown as the dialect in /v1/backends. `sampling` maps server.cpp's names to the
    server's. `slots`: requests that it serves in parallel by default; with `most_slots`, a first
    guess from which at most so many are learned. `queue`: the path of its metrics. `tokenizer`: its
    routes for tokens, None without any. `continues`: it continues an answer that the client begins.
    `limit` is the name of the field for the maximum length of an answer. `schemas`: it knows
    `json_schema`; otherwise it takes a schema with `json_object`. `strict_form`: it knows nothing
    but `json_schema`; `own_schema`: it reads the schema from a field of that name. `by_prompt`:
    what it does not know of `core.request`, unless it says more later. `health` is the path, below
    its root, that a health check asks for; empty: the list of models."""

    name: str
    sampling: Mapping[str, str]
    slots: int = 8
    most_slots: int = 0
    queue: str = ""
    tokenizer: Tokenizer | None = None
    continues: bool = False
    limit: str = "max_tokens"
    schemas: bool = True
    strict_form: bool = False
    own_schema: bool = False
    by_prompt: frozenset[str] = frozenset()
    health: str = ""

    @property
    def lacks(self) -> frozenset[str]:
        """The sampling fields that it does not support, by server.cpp's names."""
        return frozenset(FIELDS) - frozenset(self.sampling)


_EVERY_FIELD = {**{name: name for name in FIELDS}, **STANDARD}

UNKNOWN = ServerType(name="openai", sampling=STANDARD, most_slots=64)
# It ignores the biases of a request, and its tool choice (ollama/ollama, openai/openai.go). A model
# without tools refuses them.
OLLAMA = ServerType(
    name="ollama",
    sampling={name: name for name in STANDARD if name != "logit_bias"},
    slots=4,
    most_slots=16,
    by_prompt=REQUIRED,
)
# It refuses a tool choice that is an object, and the type json_object (its documentation).
LM_STUDIO = ServerType(
    name="lm studio",
    sampling=STANDARD,
    slots=4,
    most_slots=16,
    strict_form=True,
    by_prompt=frozenset({"named"}),
)
# It stops a stream as soon as it gets another request, even one for its models.
_LLAMA_CPP_PYTHON = ServerType(
    name="llama-cpp-python",
    sampling={
        **STANDARD,
        "top_k": "top_k",
        "min_p": "min_p",
        "repeat_penalty": "repeat_penalty",
        "mirostat": "mirostat_mode",
        "mirostat_tau": "mirostat_tau",
        "mirostat_eta": "mirostat_eta",
    },
    slots=1,
    tokenizer=_PYTHONS,
    schemas=False,
    by_prompt=frozenset({"auto", "required"}),  # its grammars are for one tool by its name
    health="/openapi.json",
)
_CLOUD = ServerType(
    name="openai cloud",
    sampling=STANDARD,
    limit="max_completion_tokens",
    slots=64,
    most_slots=1024,
)
# By the `owned_by` of a model.
BY_OWNER: Mapping[str, ServerType] = {
    "vllm": ServerType(
        name="vllm",
        sampling=_VLLM,
        slots=64,
        most_slots=1024,
        queue="/metrics",
        tokenizer=_VLLMS,
        continues=True,
    ),
    "sglang": ServerType(
        name="sglang",
        sampling=_VLLM,
        slots=64,
        most_slots=1024,
        queue="/metrics",
        continues=True,
    ),
    "llamacpp": ServerType(
        name="llama-server",
        sampling=_EVERY_FIELD,
        slots=4,
        continues=True,
        tokenizer=_LLAMA_SERVERS,
    ),
    "slotproxy": ServerType(
        name="slotproxy", sampling=_EVERY_FIELD, slots=16, continues=True, tokenizer=_LLAMA_SERVERS
    ),
    "me": _LLAMA_CPP_PYTHON,
    "organization_owner": LM_STUDIO,
    # It finds calls in a whole answer only, and answers one request at a time.
    "koboldcpp": ServerType(
        name="koboldcpp", sampling={**STANDARD, "top_k": "top_k"}, slots=1, by_prompt=TOOLS
    ),
    "tabbyAPI": ServerType(
        name="tabbyapi",
        own_schema=True,
        sampling={**STANDARD, "top_k": "top_k", "min_p": "min_p"},
        slots=4,
        most_slots=64,
        continues=True,
    ),
    "openai": _CLOUD,
    "openai-internal": _CLOUD,
    "system": _CLOUD,
}
