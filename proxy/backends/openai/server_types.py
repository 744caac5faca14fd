"""What each server that speaks OpenAI's API takes and tells beyond it.

A server tells its type in ``owned_by`` of the models that it lists; Ollama answers at
``/api/version``. One of unknown type gets OpenAI's own fields only: many refuse any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

from ...core.request import AUTO, REQUIRED, TOOLS
from ...core.sampling import FIELDS
from ...wire.router import LONGEST, MOST, as_count, as_dict


def _same(names: str) -> dict[str, str]:
    return {name: name for name in names.split()}


# OpenAI's own sampling fields (see "Create chat completion" in its API reference). Their names and
# meanings are server.cpp's, too, except for the form of logit_bias.
STANDARD = _same("temperature top_p presence_penalty frequency_penalty seed logit_bias")
_VLLM = {**STANDARD, **_same("top_k min_p ignore_eos"), "repeat_penalty": "repetition_penalty"}


class Tokenizer(Struct, frozen=True, kw_only=True):
    """How texts become tokens and back: routes below the server's root, and their fields."""

    path: str = "/tokenize"
    back: str = "/detokenize"
    asks: str = "content"  # the text to convert
    special: str = "add_special"  # whether to add special tokens, "" for no such field
    text: str = "content"  # the converted text
    # How messages become a prompt: by llama-server's /apply-template, by the same route, or their
    # texts are joined.
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
    name: str  # shown as the dialect in /v1/backends
    sampling: Mapping[str, str]  # the server's names by server.cpp's
    slots: int = 8  # requests that it serves in parallel by default
    most_slots: int = 0  # if not 0, `slots` is a first guess, and at most so many are learned
    tokenizer: Tokenizer | None = None
    continues: bool = False  # it continues an answer that the client begins
    limit: str = "max_tokens"  # the field for the maximum length of an answer
    schemas: bool = True  # it knows `json_schema`, otherwise a schema with `json_object`
    strict_form: bool = False  # it knows nothing but `json_schema`
    own_schema: bool = False  # it reads the schema from a field `json_schema`
    by_prompt: frozenset[str] = frozenset()  # what it does not know of `core.request`
    health: str = ""  # the path, below its root, of a health check; "": the list of models
    title: str = ""  # part of the title of its /openapi.json, if `owned_by` alone proves nothing

    @property
    def lacks(self) -> frozenset[str]:
        """The sampling fields that it does not support, by server.cpp's names."""
        return frozenset(FIELDS) - frozenset(self.sampling)


# But for the adapters: through this API, nothing keeps their caches apart.
_EVERY_FIELD = {**{name: name for name in FIELDS if name != "lora"}, **STANDARD}
_MANY: dict[str, Any] = {"slots": 64, "most_slots": 1024}  # of servers that batch

UNKNOWN = ServerType(name="openai", sampling=STANDARD, most_slots=64)
# It knows no biases and no tool choice. A model without tools refuses them. The sampling fields are
# the options of its own API (ollama/ollama, api/types.go).
OLLAMA = ServerType(
    name="ollama",
    sampling=_same(
        "temperature top_p presence_penalty frequency_penalty seed top_k min_p typical_p"
        " repeat_last_n repeat_penalty"
    ),
    slots=4,
    most_slots=16,
    by_prompt=REQUIRED,
)
_CLOUD = ServerType(name="openai cloud", sampling=STANDARD, limit="max_completion_tokens", **_MANY)
# By the `owned_by` of a model.
BY_OWNER: Mapping[str, ServerType] = {
    "vllm": ServerType(name="vllm", sampling=_VLLM, tokenizer=_VLLMS, continues=True, **_MANY),
    "sglang": ServerType(name="sglang", sampling=_VLLM, continues=True, **_MANY),
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
    # llama-cpp-python. It stops a stream as soon as it gets another request, even one for its
    # models. Its grammars are for one tool by its name.
    "me": ServerType(
        name="llama-cpp-python",
        sampling={
            **STANDARD,
            **_same("top_k min_p repeat_penalty mirostat_tau mirostat_eta"),
            "mirostat": "mirostat_mode",
        },
        slots=1,
        tokenizer=_PYTHONS,
        schemas=False,
        by_prompt=frozenset({"auto", "required"}),
        health="/openapi.json",
        title="llama.cpp Python API",
    ),
    # It refuses a tool choice that is an object, and the type json_object (its documentation).
    "organization_owner": ServerType(
        name="lm studio",
        sampling=STANDARD,
        slots=4,
        most_slots=16,
        strict_form=True,
        by_prompt=frozenset({"named"}),
    ),
    # It finds calls in a whole answer only, and answers one request at a time.
    "koboldcpp": ServerType(
        name="koboldcpp", sampling={**STANDARD, **_same("top_k")}, slots=1, by_prompt=TOOLS
    ),
    "tabbyAPI": ServerType(
        name="tabbyapi",
        own_schema=True,
        sampling={**STANDARD, **_same("top_k min_p")},
        slots=4,
        most_slots=64,
        continues=True,
    ),
    **dict.fromkeys(("openai", "openai-internal", "system"), _CLOUD),
}


# -- the list of models (``GET /v1/models``) -------------------------------------------------------


class ListedModel(Struct, frozen=True):
    """`owner` is the entry's ``owned_by``; `n_ctx` its context in tokens, 0 if it tells none."""

    name: str
    owner: str = ""
    n_ctx: int = 0


# vLLM, SGLang and llm-d tell `max_model_len`; LM Studio and some clouds the others.
_CONTEXTS = "max_model_len loaded_context_length max_context_length context_length".split()


def models(document: Any) -> tuple[ListedModel, ...]:
    """The models of a list that make text, in its order. Raises ValueError for anything else."""
    fields = as_dict(document)
    entries = fields.get("data")
    if entries is None and fields.get("object") == "list":
        entries = []  # Ollama's, while it has no model
    if not isinstance(entries, list):
        raise ValueError("not a list of models")
    out = []
    for entry in map(as_dict, entries[:MOST]):
        name, owner = entry.get("id"), entry.get("owned_by")
        # OpenRouter, llama-server and slotproxy tell what a model makes, such as embeddings.
        made = as_dict(entry.get("architecture")).get("output_modalities")
        makes_text = not isinstance(made, list) or "text" in made
        if isinstance(name, str) and 0 < len(name) <= LONGEST and makes_text:
            sizes = [entry.get(context) for context in _CONTEXTS]
            sizes.append(as_dict(entry.get("meta")).get("n_ctx"))  # llama-server and slotproxy
            n_ctx = next(filter(None, map(as_count, sizes)), 0)
            out.append(ListedModel(name, owner if isinstance(owner, str) else "", n_ctx))
    return tuple(out)


# -- what a server tells of a model beside its list -----------------------------------------------
#
# - Ollama: ``POST /api/show`` (`api/types.go` has the types) tells the model's context, parameters
#   and capabilities, ``GET /api/ps`` the context of a loaded model.
# - LM Studio: ``GET /api/v1/models`` lists the loaded instances with their settings.
# - SGLang: ``GET /server_info`` has the arguments of its start.
# - TabbyAPI: ``GET /v1/model`` is the loaded model.
# - koboldcpp: ``GET /api/extra/true_max_context_length``.
#
# All of them are untrusted, and may be missing.

Ask = Callable[[str, Mapping[str, Any] | None], Mapping[str, Any]]
"""The JSON object at a path below the root; with a body, of a POST. {} if there is none."""

_SET_CONTEXT = re.compile(r"^num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)


class Details(Struct, frozen=True, kw_only=True):
    """`n_ctx` and `slots` are 0 where unknown. `by_prompt` are formats of `core.request` that the
    model does not know; `vision` is None where unknown. `set_n_ctx` is the context that is set for
    the model in Ollama, 0 for none."""

    n_ctx: int = 0
    set_n_ctx: int = 0
    slots: int = 0
    by_prompt: frozenset[str] = frozenset()
    vision: bool | None = None


def details(server: str, model: str, ask: Ask) -> Details:
    """What a server of this type tells of a model."""
    return _READERS[server](model, ask) if server in _READERS else Details()


def _ollama(model: str, ask: Ask) -> Details:
    shown = ask("/api/show", {"model": model})
    info = as_dict(shown.get("model_info"))
    trained = as_count(info.get(f"{info.get('general.architecture')}.context_length"))
    parameters = shown.get("parameters")
    chosen = _SET_CONTEXT.search(parameters) if isinstance(parameters, str) else None
    listed = shown.get("capabilities")
    skills = listed if isinstance(listed, list) else None  # older versions list none
    return Details(
        n_ctx=trained,
        set_n_ctx=int(chosen[1]) if chosen else 0,
        by_prompt=TOOLS if skills is not None and "tools" not in skills else frozenset(),
        vision=None if skills is None else "vision" in skills,
    )


def loaded_context(model: str, ask: Ask) -> int:
    """The context that Ollama has loaded the model with, 0 if it is not loaded."""
    for entry in _entries(ask("/api/ps", None), "models"):
        if model in (entry.get("name"), entry.get("model")):
            return as_count(entry.get("context_length"))
    return 0


def _lm_studio(model: str, ask: Ask) -> Details:
    for entry in _entries(ask("/api/v1/models", None), "models"):
        for instance in _entries(entry, "loaded_instances"):
            if model in (entry.get("key"), instance.get("id")):
                config = as_dict(instance.get("config"))
                return Details(
                    n_ctx=as_count(config.get("context_length")),
                    slots=as_count(config.get("parallel")),
                    vision=as_dict(entry.get("capabilities")).get("vision") is True,
                )
    return Details()


def _sglang(model: str, ask: Ask) -> Details:
    info = ask("/server_info", None) or ask("/get_server_info", None)
    no_parser = "tool_call_parser" in info and not info["tool_call_parser"]
    return Details(
        slots=as_count(info.get("max_running_requests")),
        by_prompt=AUTO if no_parser else frozenset(),
    )


def _tabby(_: str, ask: Ask) -> Details:
    loaded = as_dict(ask("/v1/model", None).get("parameters"))
    return Details(
        n_ctx=as_count(loaded.get("max_seq_len")), slots=as_count(loaded.get("max_batch_size"))
    )


def _koboldcpp(model: str, ask: Ask) -> Details:
    return Details(n_ctx=as_count(ask("/api/extra/true_max_context_length", None).get("value")))


def _entries(document: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    entries = document.get(field)
    return [as_dict(entry) for entry in entries] if isinstance(entries, list) else []


_READERS: Mapping[str, Callable[[str, Ask], Details]] = {
    "ollama": _ollama,
    "lm studio": _lm_studio,
    "sglang": _sglang,
    "tabbyapi": _tabby,
    "koboldcpp": _koboldcpp,
}
