"""Find out what a server.cpp is, by asking, never by assuming.

Old servers answer few routes and tell little: /props holds two names, /model.json the settings of
the first slot. Since early 2024 /props tells slots, context and template, and a busy server queues.
What a chunk calls the slot (slot_id, id_slot) and the end (stopped_eos, stop_type) is read from a
real one: a token must come within the deadline, since a wedged server still answers every GET.

The questions are few and far between, so they go by `requests` (see `questions`), a connection
each: an old server has eight threads, and one that idles on a kept connection is one less for the
traffic.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from ..aside import Threads, aside
from ..core.decoding import decoded
from ..core.sampling import LATER
from ..errors import BackendDown, GatewayError, UpstreamFault, UpstreamTimeout
from ..wire import sse
from ..wire.router import room
from . import questions
from .driver import Capabilities, Learned, ignore
from .http import Pool

Answer = dict[str, Any]

PROMPT = "Hi"
KEPT = " ".join(str(n * n) for n in range(2, 26))
GET_TIMEOUT = 5.0  # seconds for a whole answer
ROUTER = "router"  # the dialect of a llama-server that has several models behind it
_threads = Threads(4)


def probe(
    url: str,
    headers: Mapping[str, str],
    pool: Pool,
    deadline: float,
    learned: Learned = ignore,
) -> Capabilities:
    """What the server at `url` is; `headers` go with every question, the token comes through
    `pool`. `learned` gets the outline, before that token. Of a router only that it is one: it has
    no token of its own. Raises BackendDown, UpstreamTimeout, UpstreamFault."""
    health, props, models, first = _questions(url, headers)
    if props.get("role") == ROUTER:
        return Capabilities(dialect=ROUTER, slots=room(props), build=_text(props.get("build_info")))
    told = _outline(health, props, models, first)
    if props or models:
        learned(told)
    chunk = first_token(pool, deadline)
    modern = "stop_type" in chunk
    return msgspec.structs.replace(
        told,
        dialect=_dialect(told.queues, modern, bool(models)),
        slot_field="id_slot" if "id_slot" in chunk else "slot_id",
        n_ctx=told.n_ctx or _int(_n_ctx(chunk)),
        doubles=not told.queues,
        honours_seed=modern,
        infill=told.queues and fills_in(pool),
        chat=bool(models) and modern,
        json_schema=modern,
        progress="modalities" in props,
        modern_sampling=modern,
        lacks=frozenset() if modern else LATER,
        slot_save=modern and saves_slots(pool),
        # Not those of /model.json: an old server tells there what its first slot was asked last.
        settings=_dict(_dict(props.get("default_generation_settings")).get("params")),
        metrics=props.get("endpoint_metrics") is True,
        ram_cache=modern and keeps_prompts(pool),
        adds_bos=not told.bos_token or adds_bos(pool),
        models=_models(props, models, first, chunk),
    )


def outline(url: str, headers: Mapping[str, str]) -> Capabilities:
    """What a server tells of itself without giving a token: enough for one that is there for
    embeddings alone. Raises BackendDown."""
    health, props, models, first = _questions(url, headers)
    if props.get("role") == ROUTER:
        raise BackendDown("the server is a router of several models: name it as --llama-api")
    return _outline(health, props, models, first)


def _outline(health: int, props: Answer, models: Answer, first: Answer) -> Capabilities:
    settings = _dict(props.get("default_generation_settings"))
    modalities = _dict(props.get("modalities"))
    total = props.get("total_slots")
    queues = type(total) is int or health == 200
    return Capabilities(
        dialect=_dialect(queues, "modalities" in props, bool(models)),
        slots=total if type(total) is int else 0,
        n_ctx=_int(settings.get("n_ctx") or first.get("n_ctx")),
        n_vocab=_n_vocab(models),
        queues=queues,
        truncates="modalities" not in props,
        vision=modalities.get("vision") is True,
        audio=modalities.get("audio") is True,
        template=_text(props.get("chat_template")),
        bos_token=_text(props.get("bos_token")),
        eos_token=_text(props.get("eos_token")),
        models=_models(props, models, first),
        build=_text(props.get("build_info")),
    )


def _questions(url: str, headers: Mapping[str, str]) -> tuple[int, Answer, Answer, Answer]:
    """The status of /health, and what /props, /v1/models and /model.json say. In a native thread:
    what a server sends is parsed there, and JSON of megabytes too."""
    return aside(lambda: _asked(url, headers), _threads)


def _asked(url: str, headers: Mapping[str, str]) -> tuple[int, Answer, Answer, Answer]:
    with questions.Session(headers) as session:
        status, props = _get(session, url + "/props")
        if status == 503:
            raise BackendDown("the backend is loading its model")
        health, _ = _get(session, url + "/health")
        _, models = _get(session, url + "/v1/models")
        _, first = _get(session, url + "/model.json")
    return health, props, models, first


def first_token(pool: Pool, deadline: float) -> dict[str, Any]:
    """The last chunk of a one-token completion, as it came.

    A busy server counts as one that answers: {} then. Raises UpstreamTimeout when no token came
    within `deadline` seconds, UpstreamFault, BackendDown."""
    until = time.monotonic() + deadline
    body = {"prompt": PROMPT, "n_predict": 1, "stream": True, "temperature": 0}
    tick = min(deadline, 1.0)
    exchange = pool.send("POST", "/completion", body, tick=tick, patience=deadline, short=True)
    decoder = sse.Decoder()
    chunks: list[dict[str, Any]] = []
    status_seen = b""
    try:
        while True:
            data = exchange.read()
            if data is None:
                if time.monotonic() >= until:
                    raise UpstreamTimeout("the backend gave no token in time")
                continue
            if exchange.status != 200:
                status_seen += data
                if not data:
                    return _busy(exchange.status, status_seen)
                continue
            for name, payload in decoder.feed(data):
                chunk = _dict(_json(payload))
                if name == "error" or "error" in chunk:
                    return _busy(200, payload)
                chunks.append(chunk)
                if chunk.get("stop") is True:
                    return chunk
            if not data:
                return _busy(200, b"") if not chunks else chunks[-1]
    except sse.SSEError as error:
        raise UpstreamFault("the backend is no server.cpp", detail=str(error)) from None
    finally:
        exchange.close()


def saves_slots(pool: Pool) -> bool:
    """Whether it was started with --slot-save-path: without, every action is refused alike."""
    try:
        status, _ = pool.ask("POST", "/slots/0?action=none", {}, GET_TIMEOUT, short=True)
    except GatewayError:
        return False
    return status == 400


def fills_in(pool: Pool) -> bool:
    """Whether the model has the tokens of an infill: without, every request of one is 501, and this
    one is wrong for those that have them."""
    try:
        status, _ = pool.ask("POST", "/infill", {"input_extra": 0}, GET_TIMEOUT, short=True)
    except GatewayError:
        return False
    return status == 400


def adds_bos(pool: Pool) -> bool:
    """Whether it puts its BOS in front of a prompt. Some models have one and want none: where it is
    the mark that begins a turn, as in SmolLM2's ChatML, a template writes it itself."""
    body = {"content": "", "add_special": True}
    try:
        status, data = pool.ask("POST", "/tokenize", body, GET_TIMEOUT, short=True)
    except GatewayError:
        return True
    return status != 200 or _dict(_json(data)).get("tokens") != []


def keeps_prompts(pool: Pool) -> bool:
    """Whether it keeps old prompts in RAM, which no route tells: two prompts in turn in one slot,
    and the first of them again. One whose slot is taken for long has the default: it does."""
    cached = 0
    for prompt in (KEPT, PROMPT, KEPT):
        body = {"prompt": prompt, "n_predict": 1, "id_slot": 0, "cache_prompt": True}
        try:
            status, data = pool.ask("POST", "/completion", body, GET_TIMEOUT, short=True)
        except GatewayError:
            return True
        cached = _int(_dict(_dict(_json(data)).get("timings")).get("cache_n"))
        if status != 200:
            return True
    return cached > len(KEPT.split()) // 2


def _busy(status: int, data: bytes) -> dict[str, Any]:
    busy = b"slot unavailable" in data or (status in (200, 404) and len(data) < 64)
    if status == 503:
        raise BackendDown("the backend is not ready", detail=repr(data[:100]))
    if not busy:
        raise UpstreamFault("the backend gave no token", detail=f"{status} {data[:100]!r}")
    return {}


def _get(session: questions.Session, url: str) -> tuple[int, Answer]:
    """Status and JSON object of an answer, (0, {}) where there is none in time."""
    status, data = session.get(url, GET_TIMEOUT)
    return status, _dict(_json(data)) if status == 200 else {}


def _json(data: bytes) -> Any:
    try:
        return decoded(data)
    except ValueError:
        return None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _int(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _n_vocab(models: dict[str, Any]) -> int:
    data = models.get("data")
    first = _dict(data[0]) if isinstance(data, list) and data else {}
    return _int(_dict(first.get("meta")).get("n_vocab"))


def _n_ctx(chunk: dict[str, Any]) -> Any:
    return _dict(chunk.get("generation_settings")).get("n_ctx")


def _dialect(queues: bool, modern: bool, models: bool) -> str:
    if modern:
        return "llama-server"
    if queues:
        return "2024"
    return "2023" if models else "powerinfer"


def _models(*answers: dict[str, Any]) -> tuple[str, ...]:
    """Names of the model, the most telling first: file names without folder and ending."""
    names: list[str] = []
    for answer in answers:
        data = answer.get("data")
        for entry in data if isinstance(data, list) else []:
            names.append(_text(_dict(entry).get("id")))
        names += [_text(answer.get(k)) for k in ("model_alias", "model_path", "model")]
    clean = [n.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".gguf") for n in names]
    return tuple(dict.fromkeys(n for n in clean if n and n not in ("unknown", "default")))
