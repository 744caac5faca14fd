"""Finds out what a server.cpp can do by asking it.

Old servers report little: /props has two names, /model.json the settings of the first slot. Since
early 2024, /props reports slots, context and template, and a busy server queues requests. The field
names for the slot (slot_id, id_slot) and the end (stopped_eos, stop_type) are read from a real
chunk: a token must come within the deadline, since a hung server still answers every GET.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ..core.adapters import MOST, Adapter
from ..core.decoding import SHORT, decoded_object
from ..core.sampling import LATER
from ..errors import BackendDown, UpstreamFault, UpstreamTimeout
from ..runtime.blocking import NativeThreads, run_in_native_thread
from ..wire import sse
from ..wire.router import as_count, as_dict, room
from .driver import Capabilities, OnCapabilities, ignore
from .gguf import with_template
from .http import ConnectionPool

Answer = dict[str, Any]

PROMPT = "Hi"
KEPT = " ".join(str(n * n) for n in range(2, 26))
GET_TIMEOUT = 5.0  # seconds of silence
MAX_NAME = 100  # characters of the name of an adapter
KEPT_TIMEOUT = 15.0  # the same, for some 85 tokens on a slow machine
MAX_ANSWER = 4 << 20  # bytes of an answer
ROUTER = "router"  # the dialect of a llama-server that manages several models
NO_SERVER = "another program than a model server answers at the backend's address: check its port"
OTHER_SERVER = 'the backend is no server of llama.cpp, but has OpenAI\'s API: set kind = "openai"'
_threads = NativeThreads(4)


def probe(
    url: str,
    pool: ConnectionPool,
    deadline: float,
    on_capabilities: OnCapabilities = ignore,
    *,
    model_file: bool = True,
) -> Capabilities:
    """See `Driver.probe`. A router has no token of its own and is only recognized. With
    `model_file`, the template of a server that reports none is read from its model file."""
    caps, props, models, first = _outline(pool)
    if caps.dialect == ROUTER:
        return caps
    if model_file:
        caps = with_template(caps, url, first, props)
    shows = bool(props or first)  # as every server.cpp does
    says_modern = "modalities" in props
    if says_modern:  # for the prompts of requests that come from now on
        caps = msgspec.structs.replace(caps, adds_bos=adds_bos(pool, caps))
    if shows:
        on_capabilities(caps)
    try:
        chunk = first_token(pool, deadline)
    except UpstreamFault as error:
        if shows or isinstance(error, BackendDown):
            raise
        chunk = {}
    if not (chunk or shows):  # its refusal may look like that of a busy server
        raise UpstreamFault(OTHER_SERVER if models else NO_SERVER)
    modern = "stop_type" in chunk
    return msgspec.structs.replace(
        caps,
        dialect=_dialect(caps.queues, modern, bool(models)),
        slot_field="id_slot" if "id_slot" in chunk else "slot_id",
        n_ctx=caps.n_ctx or as_count(as_dict(chunk.get("generation_settings")).get("n_ctx")),
        doubles=not caps.queues,
        honours_seed=modern,
        infill=caps.queues and fills_in(pool),
        chat=bool(models) and modern,
        json_schema=modern,
        progress=says_modern,
        modern_sampling=modern,
        lacks=frozenset() if modern else LATER,
        slot_save=modern and saves_slots(pool),
        ram_cache=modern and keeps_prompts(pool),
        adapters=lora_adapters(pool) if modern else (),
        adds_bos=adds_bos(pool, caps)
        if modern and not says_modern
        else not caps.bos_token or caps.adds_bos,
        models=_models(props, models, first, chunk),
    )


def outline(pool: ConnectionPool) -> Capabilities:
    """What a server reports without a token, enough for an embedding server. Raises BackendDown."""
    caps, *_ = _outline(pool)
    if caps.dialect == ROUTER:
        raise BackendDown("the server is a multi-model router: configure it with --llama-api")
    return caps


def _outline(pool: ConnectionPool) -> tuple[Capabilities, Answer, Answer, Answer]:
    """The same, with the documents at /props, /v1/models and /model.json."""
    status, props = document(pool, "/props")
    if status == 503:
        raise BackendDown("the backend is loading its model")
    health, _ = document(pool, "/health")
    _, models = document(pool, "/v1/models")
    _, first = document(pool, "/model.json")
    build = _text(props.get("build_info"))
    if props.get("role") == ROUTER:
        return Capabilities(dialect=ROUTER, slots=room(props), build=build), props, models, first
    queues = type(props.get("total_slots")) is int or health == 200
    listed = models.get("data")
    model = as_dict(listed[0]) if isinstance(listed, list) and listed else {}
    reported = of_props(props)
    reported["n_ctx"] = reported["n_ctx"] or as_count(first.get("n_ctx"))
    caps = Capabilities(
        dialect=_dialect(queues, "modalities" in props, bool(models)),
        n_vocab=as_count(as_dict(model.get("meta")).get("n_vocab")),
        queues=queues,
        truncates="modalities" not in props,
        models=_models(props, models, first),
        build=build,
        **reported,
    )
    return caps, props, models, first


def of_props(props: Answer) -> dict[str, Any]:
    """The capabilities that /props reports, by name."""
    settings = as_dict(props.get("default_generation_settings"))
    modalities = as_dict(props.get("modalities"))
    return {
        "slots": as_count(props.get("total_slots")),
        "n_ctx": as_count(settings.get("n_ctx")),
        "vision": modalities.get("vision") is True,
        "audio": modalities.get("audio") is True,
        "template": _text(props.get("chat_template")),
        "bos_token": _text(props.get("bos_token")),
        "eos_token": _text(props.get("eos_token")),
        # Not those of /model.json: an old server shows the last request of its first slot there.
        "settings": as_dict(settings.get("params")),
        "metrics": props.get("endpoint_metrics") is True,
    }


def document(
    pool: ConnectionPool, path: str, body: object = None, seconds: float = GET_TIMEOUT
) -> tuple[int, Answer]:
    """The status of an answer, and its JSON object if that is 200; (0, {}) if there is no valid one
    in time. With a `body`, of a POST. Raises BackendDown."""
    method = "GET" if body is None else "POST"
    try:
        status, data = pool.ask(method, path, body, seconds, short=True, most=MAX_ANSWER)
    except BackendDown:
        raise
    except (UpstreamFault, UpstreamTimeout):
        return 0, {}
    if status != 200:
        return status, {}
    if len(data) > SHORT:
        return status, run_in_native_thread(lambda: decoded_object(data), _threads) or {}
    return status, decoded_object(data) or {}


def not_listed(status: int) -> BackendDown:
    """The error for a list of models with a status other than 200."""
    if status == 0:
        return BackendDown("the backend is not responding")
    if status in (401, 403):
        return BackendDown("the backend rejects our API key")
    return BackendDown(f"the backend responds with status {status} to its list of models")


def first_token(pool: ConnectionPool, deadline: float) -> dict[str, Any]:
    """The last chunk of a one-token completion; {} if the server is busy. Raises UpstreamTimeout
    if no token came within `deadline` seconds, UpstreamFault, BackendDown."""
    body: Answer = {"prompt": PROMPT, "n_predict": 1, "stream": True, "temperature": 0}
    body["cache_prompt"] = False  # the slot may have what other adapters evaluated
    try:
        status, data = pool.ask("POST", "/completion", body, deadline, short=True, most=MAX_ANSWER)
    except UpstreamTimeout:
        raise UpstreamTimeout("the backend timed out before the first token") from None
    if status != 200:
        return _busy(status, data)
    chunk: dict[str, Any] = {}
    for name, payload in sse.Decoder().feed(data):
        chunk = decoded_object(payload) or {}
        if name == "error" or "error" in chunk:
            return _busy(200, payload)
    return chunk or _busy(200, b"")


def saves_slots(pool: ConnectionPool) -> bool:
    """Whether it was started with --slot-save-path. Otherwise it refuses every slot action."""
    return document(pool, "/slots/0?action=none", {})[0] == 400


def fills_in(pool: ConnectionPool) -> bool:
    """Whether the model has infill tokens. Otherwise even this invalid request is a 501."""
    return document(pool, "/infill", {"input_extra": 0})[0] == 400


def adds_bos(pool: ConnectionPool, caps: Capabilities) -> bool:
    """Whether it puts BOS before a prompt. Some templates write it, as SmolLM2's ChatML. Raises
    BackendDown if it does not answer: prompts would lose their BOS, or have two."""
    if not caps.bos_token:
        return True
    status, answer = document(pool, "/tokenize", {"content": "", "add_special": True})
    if status == 0:
        raise BackendDown("the backend does not answer in time")
    return answer.get("tokens") != []


def keeps_prompts(pool: ConnectionPool) -> bool:
    """Whether it keeps old prompts in RAM, which is the default and no route reports: two prompts
    in turn in one slot, then the first again. False if it does not say it, as of a server without:
    then each conversation is sent to the slot that has it."""
    cached = -1
    for prompt in (KEPT, PROMPT, KEPT):
        body = {"prompt": prompt, "n_predict": 1, "id_slot": 0, "cache_prompt": cached >= 0}
        status, answer = document(pool, "/completion", body, KEPT_TIMEOUT)
        if status != 200:
            return False
        cached = as_count(as_dict(answer.get("timings")).get("cache_n"))
    return cached > len(KEPT.split()) // 2


class _Listed(msgspec.Struct):
    id: int
    path: str
    scale: float


def lora_adapters(pool: ConnectionPool) -> tuple[Adapter, ...]:
    """The adapters of a server, named by their files. Raises BackendDown if it does not answer:
    caches would be mixed."""
    try:
        status, data = pool.ask(
            "GET", "/lora-adapters", None, GET_TIMEOUT, short=True, most=MAX_ANSWER
        )
        listed = msgspec.json.decode(data, type=list[_Listed]) if status == 200 else []
    except (UpstreamFault, UpstreamTimeout):
        raise BackendDown("the backend does not answer in time") from None
    except msgspec.MsgspecError:
        return ()
    return as_adapters((entry.id, entry.path, entry.scale) for entry in listed)


def as_adapters(files: Iterable[tuple[int, str, float]]) -> tuple[Adapter, ...]:
    """Adapters by number, file and scale, with names of their own."""
    adapters: dict[str, Adapter] = {}
    for number, path, scale in files:
        name = as_name(path)[-MAX_NAME:]
        if not name or not name.isprintable() or name in adapters:
            name = str(number)
        if 0 <= number < MOST:
            adapters[name] = Adapter(number, name, scale)
    return tuple(adapters.values())


def as_name(path: str) -> str:
    """The name of a model or adapter: that of its file, without folder and extension."""
    return path.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".gguf")


def _busy(status: int, data: bytes) -> dict[str, Any]:
    busy = b"slot unavailable" in data or (status in (200, 404) and len(data) < 64)
    if status == 503:
        raise BackendDown("the backend is not ready", detail=repr(data[:100]))
    if status in (401, 403):
        raise not_listed(status)
    if not busy:
        raise UpstreamFault("the backend returned no token", detail=f"{status} {data[:100]!r}")
    return {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _dialect(queues: bool, modern: bool, models: bool) -> str:
    if modern:
        return "llama-server"
    if queues:
        return "2024"
    return "2023" if models else "powerinfer"


def _models(*answers: dict[str, Any]) -> tuple[str, ...]:
    """Names of the model, most specific first: file names without folder and extension."""
    names: list[str] = []
    for answer in answers:
        data = answer.get("data")
        for entry in data if isinstance(data, list) else []:
            names.append(_text(as_dict(entry).get("id")))
        names += [_text(answer.get(k)) for k in ("model_alias", "model_path", "model")]
    clean = map(as_name, names)
    return tuple(dict.fromkeys(n for n in clean if n and n not in ("unknown", "default")))
