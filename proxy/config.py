"""Settings: one table, read from flags, environment and a TOML file.

The table is the class ``Settings`` itself: a field's name, type, bounds, default and help are said
there once, and flags, ``SLOTPROXY_…`` variables, the keys of the file, ``--help`` and the table in
the README (``tools/settings_table.py``) are all read off it. A new setting is one new field.

Order: a flag beats the environment, the environment beats the file, the file beats the default.
Whatever is wrong raises ``SettingsError`` with one line that names the setting as the user wrote it
(``--port``, ``SLOTPROXY_PORT`` or ``slotproxy.toml: port``). Keys are never part of a message.

``load`` is the door: it normalises (addresses, prefixes, ``\\n`` in texts) and checks what concerns
several settings at once. Pure but for reading the config file and the key file. Nothing here
imports flask, requests or ssl: gunicorn's master reads the settings before gevent patches a worker.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import ipaddress
import math
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NoReturn,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)
from urllib.parse import urlsplit

import msgspec

from proxy import __version__, api_keys, private
from proxy.api_keys import ApiKey as ApiKey
from proxy.api_keys import Secret as Secret
from proxy.api_keys import unnamed
from proxy.core.invalid import Invalid
from proxy.core.sampling import FIELDS, check
from proxy.resources import templates

ENV_PREFIX = "SLOTPROXY_"
_PROG = "slotproxy"


class SettingsError(ValueError):
    """A setting that cannot be used. The message is one line and names the setting."""


# -- checks: take a value of the right type, return it normalised or say what is wrong ------------


def _text(value: str) -> str:
    # What the reference does with these flags, and no more: other escapes stay as they are.
    return value.replace("\\n", "\n")


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"expected an address like http://127.0.0.1:8080: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"expected an address like http://127.0.0.1:8080, got {value!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address with a password would show up in logs; use a [[backend]] key")
    if parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", value):
        raise ValueError(f"expected an address without query, fragment or spaces, got {value!r}")
    return value.rstrip("/")


def _maybe_url(value: str) -> str:
    return _url(value) if value else ""


def _prefix(value: str) -> str:
    inner = value.strip("/")
    if not re.fullmatch(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*|", inner):
        raise ValueError(f"expected a path like /llm, got {value!r}")
    return f"/{inner}" if inner else ""


def _origin(value: str) -> str:
    origin = value.rstrip("/")
    if origin != "*" and not re.fullmatch(
        r"[a-z][a-z0-9+.-]*://[A-Za-z0-9.:\[\]_-]+|[a-z0-9]([a-z0-9.-]*[a-z0-9])?", origin
    ):
        raise ValueError(
            "expected *, an origin like https://chat.example.org or the name of a host, "
            f"got {value!r}"
        )
    return origin


def _proxy(value: str) -> str:
    try:
        return value if value == "unix" else str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError(f"expected an address, a network or unix, got {value!r}") from None


def _path(value: str) -> str:
    """A shell expands ~, a file and the environment do not."""
    return str(Path(value).expanduser()) if value.startswith("~") else value


def _allowed(value: str) -> str:
    host = value.lower().removesuffix(".")
    host = host[1:] if host.startswith("*.") else host
    if host != "*" and not re.fullmatch(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*", host):
        raise ValueError(
            f"expected a name without port, as gateway.example.org or .example.org, or *, "
            f"got {value!r}"
        )
    return host


_STATES = {"redis": "redis", "rediss": "rediss", "unix": "unix"}
_STATES |= {"valkey": "redis", "valkeys": "rediss"}


def _state(value: str) -> Secret:
    """As redis-py takes it. A password may be in it, so no message shows it."""
    if not value:
        return Secret("")
    scheme, mark, rest = value.partition("://")
    if scheme not in _STATES or not mark or not rest:
        raise ValueError(f"expected {', '.join(f'{one}://…' for one in _STATES)}")
    return Secret(f"{_STATES[scheme]}://{rest}")


# The settings of a sampler that are one number or a switch: the others are part of one request.
_SAMPLERS = frozenset(
    name for name, field in FIELDS.items() if field.kind in ("number", "integer", "boolean")
)


def _sampler(value: str) -> str:
    name, _, text = value.partition("=")
    name = name.strip()
    if name not in _SAMPLERS:
        near = difflib.get_close_matches(name, _SAMPLERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"expected NAME=VALUE, as temperature=0.2, got {value!r}{hint}")
    try:
        number = msgspec.json.decode(text.strip())
        return f"{name}={msgspec.json.encode(check(name, number)).decode()}"
    except msgspec.DecodeError:
        raise ValueError(f"{name}: expected a number, true or false, got {text!r}") from None
    except Invalid as error:
        raise ValueError(f"{error}, got {text!r}") from None


def _maybe_key(value: str) -> Secret:
    return api_keys.checked(value) if value else Secret("")


# -- the table -------------------------------------------------------------------------------------


def _says(
    group: str, text: str, check: Callable[[Any], Any] | None = None, **bounds: Any
) -> msgspec.Meta:
    """One row's group, help and check; ``bounds`` are msgspec's ge, gt, le, lt."""
    return msgspec.Meta(description=text, extra={"group": group, "check": check}, **bounds)


_B = "One backend"


class BackendConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One ``[[backend]]`` of the file, or what a ``--llama-api`` address or a ``--chatglm-model``
    stands for."""

    url: Annotated[str, _says(_B, "address of the server", _url)] = ""
    file: Annotated[str, _says(_B, "ChatGLM model file to run here, instead of a url", _path)] = ""
    name: Annotated[str, _says(_B, "name in logs and in /v1/backends; default: host and port")] = ""
    model: Annotated[str, _says(_B, "model name it serves; default: what it says")] = ""
    kind: Annotated[
        Literal["auto", "llamacpp", "chatglm"], _says(_B, "driver; auto asks the server")
    ] = "auto"
    slots: Annotated[int, _says(_B, "requests at once; 0: as --slots", ge=0, le=1024)] = 0
    ctx_size: Annotated[int, _says(_B, "tokens per slot; 0: as --ctx-size", ge=0)] = 0
    weight: Annotated[float, _says(_B, "share of the load", gt=0, le=1000)] = 1.0
    api_key: Annotated[Secret | None, _says(_B, "key to send to this server", api_keys.checked)] = (
        None
    )
    chat_mode: Annotated[
        Literal["auto", "native", "completion"] | None, _says(_B, "as --chat-mode, for this server")
    ] = None

    @property
    def address(self) -> str:
        return self.url or self.file


class McpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[mcp]]`` of the file: an MCP server whose tools an agent may use, once ``--tools``
    names it. Either a command, spoken to over its standard streams, or the url of one that speaks
    streamable HTTP; ``tools`` are the names that may be used, none for all."""

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    env: dict[str, str] = {}
    headers: dict[str, str] = {}
    tools: tuple[str, ...] = ()

    def __repr__(self) -> str:  # keys stand in env and headers
        return f"McpConfig({self.name!r})"


_SERVE = "Serving"
_UP = "Backends"
_GLM = "ChatGLM models"
_PROMPT = "Prompts"
_ADMIT = "Admission and limits"
_ACCESS = "Access"
_WATCH = "Logs and metrics"
_AGENT = "Search and tools"

ENGINES_NEED = {
    "searxng": "searxng_url",
    "brave": "brave_key",
    "tavily": "tavily_key",
}

_BING = (
    "Microsoft switched off Bing's search API in August 2025: remove it, and use ddgs, searxng, "
    "brave or tavily"
)
# Settings, and values of settings, that earlier versions knew: who still has them is told why.
GONE_SETTINGS = {"bing_key": _BING}
GONE_VALUES = {("search_engine", "bing"): _BING}

# Windows cannot hand a socket to a child.
_DEFAULT_ISOLATION: Literal["process", "thread"] = (
    "thread" if sys.platform == "win32" else "process"
)
# What chatglm_cpp's own servers read from the environment, and the settings these are here.
_CHATGLM_VARIABLES = {
    "MODEL": "chatglm_model",
    "MAX_LENGTH": "ctx_size",
    "NUM_THREADS": "chatglm_threads",
}
EVERYTHING = ("chatchat", "pages")  # what --all turns on, where it is not said otherwise
_DEFAULT_SERVER: Literal["gunicorn", "waitress"] = (
    "waitress" if sys.platform == "win32" else "gunicorn"
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting there is. Times are seconds, sizes bytes, contexts tokens."""

    llama_api: Annotated[
        tuple[str, ...],
        _says(
            _UP,
            "address of a server.cpp backend; several are several backends. By default those of "
            "the two where a llama-server listens at the start",
            _url,
        ),
    ] = ("http://127.0.0.1:8080", "http://127.0.0.1:9931")
    embedding_api: Annotated[
        tuple[str, ...],
        _says(_UP, "address of a server for embeddings alone; none: the backends make them", _url),
    ] = ()
    rerank_api: Annotated[
        tuple[str, ...],
        _says(_UP, "address of a server for rankings alone; none: the backends make them", _url),
    ] = ()
    embedding_shortens: Annotated[
        bool,
        _says(_UP, "the embedding model was trained to bear shortening (`dimensions`)"),
    ] = False
    slots: Annotated[
        int,
        _says(
            _UP,
            "requests a backend takes at once; 0: ask it, or count its slots where it cannot tell",
            ge=0,
            le=1024,
        ),
    ] = 0
    ctx_size: Annotated[
        int, _says(_UP, "context of one slot in tokens; 0: ask the backend", ge=0, le=1 << 30)
    ] = 0
    timeout: Annotated[
        float,
        _says(_UP, "seconds to wait for the next byte of a backend", gt=0, le=86400),
    ] = 600.0
    connect_timeout: Annotated[
        float, _says(_UP, "seconds to wait for a connection to a backend", gt=0, le=3600)
    ] = 5.0
    health_interval: Annotated[
        float, _says(_UP, "seconds between two looks at a backend", gt=0, le=3600)
    ] = 5.0
    health_deadline: Annotated[
        float,
        _says(_UP, "seconds within which a healthy backend gives a token", gt=0, le=3600),
    ] = 30.0
    ignore_unsupported: Annotated[
        bool,
        _says(_UP, "drop parameters a backend cannot honour instead of answering 400"),
    ] = False

    chatglm_model: Annotated[
        tuple[str, ...],
        _says(_GLM, "model file of chatglm_cpp to run here; several are several models", _path),
    ] = ()
    chatglm_isolation: Annotated[
        Literal["process", "thread"],
        _says(_GLM, "run a model in a child process, or in a thread: then all else waits for it"),
    ] = _DEFAULT_ISOLATION
    chatglm_load: Annotated[
        Literal["start", "lazy"], _says(_GLM, "load a model at the start or at the first request")
    ] = "start"
    chatglm_unload: Annotated[
        float, _says(_GLM, "seconds without a request that unload a model; 0: never", ge=0)
    ] = 0.0
    chatglm_threads: Annotated[
        int,
        _says(_GLM, "threads of a model; 0: a core less than there are", ge=0, le=1024),
    ] = 0

    continue_broken: Annotated[
        bool,
        _says(_UP, "go on with an answer whose backend died, on any that is up"),
    ] = True

    prefix_hygiene: Annotated[
        bool,
        _says(
            _PROMPT,
            "keep the head of prompts alike: changing stamps (an attribution line, the seconds of "
            "a clock) become zeros, tools get a stable order",
        ),
    ] = True
    chat_template: Annotated[
        str,
        _says(
            _PROMPT,
            "auto (the server's own, else legacy), legacy (the text form of the flags below), "
            "the name of a template in templates/chat, or a file",
            _path,
        ),
    ] = "auto"
    chat_prompt: Annotated[str, _says(_PROMPT, "legacy form: the text on top", _text)] = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant follows the given rules no matter what.\n"
    )
    user_name: Annotated[str, _says(_PROMPT, "legacy form: before what the user says", _text)] = (
        "\nUSER: "
    )
    ai_name: Annotated[
        str, _says(_PROMPT, "legacy form: before what the assistant says", _text)
    ] = "\nASSISTANT: "
    system_name: Annotated[
        str, _says(_PROMPT, "legacy form: before what the system says", _text)
    ] = "\nASSISTANT's RULE: "
    stop: Annotated[str, _says(_PROMPT, "legacy form: the end of an answer", _text)] = "</s>"
    sampling: Annotated[
        tuple[str, ...],
        _says(
            _PROMPT,
            "sampler setting for requests that do not set it, for example temperature=0.2; several "
            "are allowed; none: the backend's own",
            _sampler,
        ),
    ] = ()
    chat_mode: Annotated[
        Literal["auto", "native", "completion"],
        _says(
            _PROMPT,
            "who makes the prompt of a chat and reads calls and thoughts out of the answer: "
            "completion (we do), native (a llama-server that can), auto (we do, but for images, "
            "sound and templates we do not know)",
        ),
    ] = "auto"
    max_media: Annotated[
        int, _says(_PROMPT, "largest image or sound in bytes", ge=1, le=1 << 30)
    ] = 20971520
    reasoning_format: Annotated[
        Literal["deepseek", "none", "raw"],
        _says(
            _PROMPT,
            "a model's thoughts: deepseek (in reasoning_content), none (in the text, between "
            "tags), raw (the text as the model wrote it)",
        ),
    ] = "deepseek"
    json_retries: Annotated[
        int,
        _says(
            _PROMPT,
            "how often an answer that is not the JSON that was asked for is made again, where it "
            "is not streamed",
            ge=0,
            le=10,
        ),
    ] = 1

    host: Annotated[str, _says(_SERVE, "address to listen on")] = "127.0.0.1"
    port: Annotated[int, _says(_SERVE, "port to listen on; 0: any free one", ge=0, le=65535)] = 8081
    data: Annotated[
        str, _says(_SERVE, "folder of all that is kept; empty: the user's data folder", _path)
    ] = ""
    database: Annotated[
        str,
        _says(
            _SERVE,
            "database of knowledge and conversations: postgresql://…; empty: SQLite in --data",
        ),
    ] = ""
    max_document: Annotated[int, _says(_SERVE, "largest document in bytes", ge=1, le=1 << 30)] = (
        67108864
    )
    quota_files: Annotated[
        int, _says(_SERVE, "files of /v1/files that a key may keep; 0: any number", ge=0)
    ] = 10000
    quota_documents: Annotated[
        int, _says(_SERVE, "documents in knowledge bases that a key may keep; 0: any number", ge=0)
    ] = 10000
    quota_bytes: Annotated[
        int,
        _says(
            _SERVE,
            "bytes of files, documents and questions that a key may keep; 0: any number",
            ge=0,
        ),
    ] = 10737418240
    reading_timeout: Annotated[
        int, _says(_SERVE, "seconds that reading a document may take", ge=1)
    ] = 600
    reading_memory: Annotated[
        int, _says(_SERVE, "bytes of address space that reading a document may take", ge=1 << 28)
    ] = 1 << 30
    response_store: Annotated[
        str,
        _says(_SERVE, "SQLite file of the responses of /v1/responses; empty: in memory", _path),
    ] = ""
    stored_responses: Annotated[
        int, _says(_SERVE, "responses kept for each key; the oldest go", ge=0, le=1 << 20)
    ] = 1000
    all: Annotated[
        bool, _says(_SERVE, "serve everything there is, and print as a table what of it is up")
    ] = False
    chatchat: Annotated[
        bool, _says(_SERVE, "serve Langchain-Chatchat's API too (/chat/chat, /knowledge_base/…)")
    ] = False
    pages: Annotated[
        bool, _says(_SERVE, "serve pages for people at /: chat, knowledge, status")
    ] = True
    api_prefix: Annotated[
        str, _says(_SERVE, "path all routes stand under, for example /llm", _prefix)
    ] = ""
    alias: Annotated[
        tuple[str, ...], _says(_SERVE, "name of the served model; several are several names")
    ] = ()
    default_model: Annotated[
        str, _says(_SERVE, "model that an unknown name means where several are served")
    ] = ""
    strict_models: Annotated[
        bool, _says(_SERVE, "answer 404 to an unknown model name even if only one is served")
    ] = False
    sse_ping_interval: Annotated[
        float,
        _says(_SERVE, "seconds of silence after which a stream gets a comment; 0: off", ge=0),
    ] = 15.0
    server: Annotated[
        Literal["gunicorn", "waitress"],
        _says(_SERVE, "WSGI server; on Windows waitress is the default and the only one"),
    ] = _DEFAULT_SERVER
    worker_class: Annotated[
        Literal["gevent", "gthread"], _says(_SERVE, "gunicorn's kind of worker")
    ] = "gevent"
    workers: Annotated[
        int,
        _says(_SERVE, "worker processes; more than 1 need --state for their table of slots", ge=1),
    ] = 1
    state: Annotated[
        Secret,
        _says(
            _SERVE,
            "redis://HOST:PORT/DB (or rediss://, valkey://, unix://PATH): where several workers, "
            "or hosts, share the table of slots, the queue and its limits; empty: in the process",
            _state,
        ),
    ] = Secret("")
    state_name: Annotated[
        str, _says(_SERVE, "name of the table in --state: who shares the backends shares it")
    ] = "default"
    threads: Annotated[
        int, _says(_SERVE, "threads, that is requests at once, of waitress and gthread", ge=1)
    ] = 64

    max_queue: Annotated[
        int,
        _says(_ADMIT, "requests of all keys that may wait for a slot; beyond it 429", ge=0),
    ] = 256
    queue_timeout: Annotated[
        float, _says(_ADMIT, "seconds a request may wait for a slot", gt=0, le=86400)
    ] = 300.0
    wait_for_backend: Annotated[
        float,
        _says(
            _ADMIT,
            "seconds a request waits while no backend of its model is up; 0: 503 at once",
            ge=0,
            le=86400,
        ),
    ] = 10.0
    side_jobs: Annotated[
        tuple[str, ...],
        _says(
            _ADMIT,
            "what the last message of a side job (a title, tags) begins with: it gets a spare slot",
        ),
    ] = ("### Task:",)
    slot_disk: Annotated[
        int,
        _says(
            _ADMIT,
            "bytes of saved slots per backend that was started with --slot-save-path; 0: none",
            ge=0,
        ),
    ] = 8 << 30
    max_body: Annotated[
        int, _says(_ADMIT, "largest request body in bytes", ge=1024, le=1 << 40)
    ] = 33554432

    body_timeout: Annotated[
        float,
        _says(
            _ADMIT,
            "seconds a request's body may take, and one more for each 500 bytes that came; beyond "
            "them 408",
            gt=0,
            le=86400,
        ),
    ] = 60.0
    send_timeout: Annotated[
        float,
        _says(
            _ADMIT,
            "seconds without a byte taken after which a client that does not read its answer is "
            "cut",
            gt=0,
            le=86400,
        ),
    ] = 60.0

    api_key: Annotated[
        tuple[Secret, ...],
        _says(
            _ACCESS,
            "key a client must show; several are allowed, each with a digest of it as its name",
            api_keys.checked,
        ),
    ] = ()
    api_key_file: Annotated[
        str,
        _says(
            _ACCESS,
            "file of keys, a line each: KEY or NAME KEY, then group=NAME (keys of one group share "
            "their cache, as group=shared) and priority=high|normal|low; # comments. The name owns "
            "the key's data; a digest of the key if there is none",
        ),
    ] = ""
    admins: Annotated[
        tuple[str, ...],
        _says(
            _ACCESS,
            "names of keys that may save, restore and erase slots, and see where backends are",
        ),
    ] = ()
    wrong_keys: Annotated[
        int,
        _says(
            _ACCESS,
            "wrong keys an address may show in a minute; beyond it only keys that were right from "
            "there before are taken, others get 429; 0: no limit",
            ge=0,
        ),
    ] = 20
    trusted_proxies: Annotated[
        tuple[str, ...],
        _says(
            _ACCESS,
            "address or network (10.0.0.0/8) of a proxy whose X-Forwarded-For or Forwarded header "
            "tells the client's address; unix: whoever comes through a Unix socket; none: the peer "
            "is the client",
            _proxy,
        ),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...],
        _says(
            _ACCESS,
            "origin whose pages may call this API, or a host (localhost) for all its pages; none: "
            "no CORS headers",
            _origin,
        ),
    ] = ()

    allowed_hosts: Annotated[
        tuple[str, ...],
        _says(
            _ACCESS,
            "without keys: name under which clients reach this gateway, beside localhost, IP "
            "addresses and names of private networks; .example.org: all below it; *: any",
            _allowed,
        ),
    ] = ()

    search_engine: Annotated[
        tuple[Literal["ddgs", "searxng", "brave", "tavily"], ...],
        _says(
            _AGENT,
            "engine of searches on the web; the first is the one meant where none is named; none: "
            "there are no searches",
        ),
    ] = ()
    searxng_url: Annotated[
        str, _says(_AGENT, "address of a SearXNG server that allows the format json", _maybe_url)
    ] = ""
    brave_key: Annotated[Secret, _says(_AGENT, "key of Brave's search", _maybe_key)] = Secret("")
    tavily_key: Annotated[Secret, _says(_AGENT, "key of Tavily's search", _maybe_key)] = Secret("")
    search_timeout: Annotated[
        float, _says(_AGENT, "seconds a search may take, pages read included", gt=0, le=600)
    ] = 15.0
    tools: Annotated[
        tuple[str, ...],
        _says(
            _AGENT,
            "tool an agent may use: calculator, time, knowledge_search, web_search, the name of an "
            "installed function (entry point slotproxy.tools) or of an [[mcp]] server; none: "
            "agents have none",
        ),
    ] = ()
    tool_timeout: Annotated[float, _says(_AGENT, "seconds a tool may take", gt=0, le=3600)] = 30.0
    agent_rounds: Annotated[
        int, _says(_AGENT, "times an agent asks the model for one answer", ge=1, le=100)
    ] = 6
    agent_timeout: Annotated[
        float, _says(_AGENT, "seconds an agent may take for one answer", gt=0, le=86400)
    ] = 120.0
    agent_tokens: Annotated[
        int, _says(_AGENT, "tokens an agent may write for one answer", ge=1, le=1 << 24)
    ] = 4096

    metrics: Annotated[bool, _says(_WATCH, "serve GET /metrics")] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _says(_WATCH, "least level that is logged")
    ] = "info"

    # Not settings (no help, so no flag): what load() read from the two files, and whether a backend
    # was named anywhere.
    backend: tuple[BackendConfig, ...] = ()
    mcp: tuple[McpConfig, ...] = ()
    file_keys: tuple[ApiKey, ...] = ()
    names_backend: bool = False
    warnings: tuple[str, ...] = ()  # to be said at the start

    @property
    def backends(self) -> tuple[BackendConfig, ...]:
        """All configured backends: the addresses, the model files, then the file's tables, with
        names, kinds, slots and context sizes filled in."""
        servers = (BackendConfig(url=url) for url in self.llama_api)
        models = (BackendConfig(file=file) for file in self.chatglm_model)
        return tuple(
            msgspec.structs.replace(
                one,
                name=one.name or (Path(one.file).stem if one.file else one.url.split("://", 1)[1]),
                kind="chatglm" if one.file else one.kind,
                slots=1 if one.file else one.slots or self.slots,  # a model does one at a time
                ctx_size=one.ctx_size or self.ctx_size,
            )
            for one in (*servers, *models, *self.backend)
        )

    @property
    def sampler_defaults(self) -> dict[str, Any]:
        """Sampler fields for requests that do not set them."""
        pairs = (one.partition("=") for one in self.sampling)
        return {name: msgspec.json.decode(value) for name, _, value in pairs}

    @property
    def is_default(self) -> bool:
        """Whether no backend was named."""
        return not self.names_backend and self.backends == Settings().backends

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """Every key a client may show. Empty: the API is open."""
        flags = (unnamed(key, f"key-{n}") for n, key in enumerate(self.api_key, start=1))
        return (*flags, *self.file_keys)


class Row(NamedTuple):
    """One setting, read off the table."""

    name: str
    type: Any  # without Annotated and without "| None"
    default: Any
    help: str
    group: str
    meta: msgspec.Meta
    check: Callable[[Any], Any] | None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENV_PREFIX + self.name.upper()

    @property
    def is_list(self) -> bool:
        return get_origin(self.type) is tuple

    @property
    def item(self) -> Any:
        """The type of one value: of a list, that of its elements."""
        return get_args(self.type)[0] if self.is_list else self.type

    @property
    def shown_default(self) -> str:
        """The default as a user would write it; empty for none."""
        if isinstance(self.default, tuple):
            return ",".join(self.default)
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, float):
            return f"{self.default:g}"
        if isinstance(self.default, str):
            return self.default.replace("\n", "\\n")
        return "" if self.default is None else str(self.default)


@functools.cache
def table(struct: type[msgspec.Struct] = Settings) -> tuple[Row, ...]:
    """The rows of ``Settings`` (or of another struct written the same way), in their order."""
    hints = get_type_hints(struct, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(struct):
        hint = hints[field.name]
        if get_origin(hint) is not Annotated:
            continue
        kind, meta = get_args(hint)
        if get_origin(kind) in (Union, type(int | str)):
            (kind,) = (one for one in get_args(kind) if one is not type(None))
        default = None if field.required else field.default
        extra = meta.extra
        rows.append(
            Row(field.name, kind, default, meta.description, extra["group"], meta, extra["check"])
        )
    return tuple(rows)


# -- one value -------------------------------------------------------------------------------------


def _expected(row: Row) -> str:
    """What a value of this row looks like, for an error message."""
    if get_origin(row.item) is Literal:
        return "one of " + ", ".join(get_args(row.item))
    words = {int: "a whole number", float: "a number", bool: "on or off"}.get(row.item, "text")
    if row.meta.ge is not None:
        words += f" of at least {row.meta.ge}"
    if row.meta.gt is not None:
        words += f" above {row.meta.gt}"
    if row.meta.le is not None:
        words += f" and at most {row.meta.le}"
    return words


def _decode(kind: type, value: Any) -> Any:
    """msgspec's hook for the one type of ours it cannot know."""
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise NotImplementedError(kind)


def _value(row: Row, raw: Any, source: str) -> Any:
    """``raw`` (text of a flag or variable, or a value of the file) as the row's type, checked."""
    if row.is_list:
        if isinstance(raw, str):
            raw = [raw]
        if not isinstance(raw, list):
            raise SettingsError(f"{source}: expected a list")
        pieces: list[Any] = []
        for one in raw:
            pieces += map(str.strip, one.split(",")) if isinstance(one, str) else [one]
        values = (_one(row, piece, source) for piece in pieces if piece != "")
        return tuple(dict.fromkeys(values))
    return _one(row, raw, source)


def _one(row: Row, raw: Any, source: str) -> Any:
    got = "" if row.item is Secret else f", got {raw!r}"
    if row.item is bool and isinstance(raw, str):
        # Beside true, false, 1 and 0, which msgspec knows: what --help shows as the default.
        raw = {"on": True, "off": False}.get(raw.lower(), raw)
    try:
        # Text becomes a number, but true must not: it is no port.
        if isinstance(raw, bool) and row.item is not bool:
            raise msgspec.ValidationError
        bounded = row.item if row.is_list else Annotated[row.item, row.meta]
        value = msgspec.convert(raw, bounded, strict=False, dec_hook=_decode)
        if isinstance(value, float) and not math.isfinite(value):
            raise msgspec.ValidationError
    except msgspec.ValidationError:
        if isinstance(raw, str) and (why := GONE_VALUES.get((row.name, raw))):
            raise SettingsError(f"{source}: {why}") from None
        raise SettingsError(f"{source}: expected {_expected(row)}{got}") from None
    if isinstance(value, str) and "\0" in value:
        raise SettingsError(f"{source}: a NUL character is in it")
    try:
        return row.check(value) if row.check else value
    except ValueError as error:
        raise SettingsError(f"{source}: {error}") from None


# -- the sources -----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message.removeprefix("argument "))


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROG,
        description="A translation gateway in front of llama.cpp and PowerInfer servers.",
        epilog=f"Each setting can also be given as {ENV_PREFIX}NAME in the environment or as name "
        "in the TOML file: a flag beats the environment, which beats the file. Lists are "
        "separated by commas; their flags may be repeated. The file also takes [[backend]] and "
        "[[mcp]] tables.",
        formatter_class=_Help,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{_PROG} {__version__}")
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings")
    groups: dict[str, Any] = {}
    for row in table():
        if row.group not in groups:
            groups[row.group] = parser.add_argument_group(row.group)
        default = f" (default: {row.shown_default})" if row.shown_default else ""
        text = (row.help + default).replace("%", "%%")
        if row.type is bool:
            groups[row.group].add_argument(
                row.flag, action=argparse.BooleanOptionalAction, help=text
            )
        else:
            metavar = {int: "N", float: "SECONDS"}.get(row.item, "TEXT")
            if get_origin(row.item) is Literal:
                metavar = "|".join(get_args(row.item))
            action = "append" if row.is_list else "store"
            groups[row.group].add_argument(row.flag, action=action, metavar=metavar, help=text)
    return parser


def _no_such(source: str, name: str, names: Iterable[str]) -> SettingsError:
    if why := GONE_SETTINGS.get(name.removeprefix("--").replace("-", "_")):
        return SettingsError(f"{name if name.startswith('--') else f'{source}: {name}'}: {why}")
    near = difflib.get_close_matches(name, list(names), n=1)
    return SettingsError(
        f"{source}: unknown setting {name!r}" + (f"; is it {near[0]!r}?" if near else "")
    )


def _read_text(path: str, source: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"{source}: cannot read {path}: {reason}") from None


def _from_file(path: str, source: str) -> dict[str, Any]:
    """The values of a TOML file by name; ``backend`` holds the tables of that name."""
    try:
        document = tomllib.loads(_read_text(path, source))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}") from None
    rows = {row.name: row for row in table()}
    values: dict[str, Any] = {}
    for key, raw in document.items():
        name = key.replace("-", "_")
        if name == "backend":
            values[name] = _backends(raw, path)
        elif name == "mcp":
            values[name] = _mcp(raw, path)
        elif name in rows:
            values[name] = _value(rows[name], raw, f"{path}: {key}")
        else:
            raise _no_such(path, key, [*rows, "backend", "mcp"])
    return values


def _backends(raw: Any, path: str) -> tuple[BackendConfig, ...]:
    if not isinstance(raw, list) or not all(isinstance(one, dict) for one in raw):
        raise SettingsError(f"{path}: backend: expected [[backend]] tables")
    rows = {row.name: row for row in table(BackendConfig)}
    found = []
    for number, document in enumerate(raw, start=1):
        source = f"{path}: backend {number}"
        values = {}
        for key, value in document.items():
            name = key.replace("-", "_")
            if name not in rows:
                raise _no_such(source, key, rows)
            values[name] = _value(rows[name], value, f"{source}: {key}")
        if not values.keys() & {"url", "file"}:
            raise SettingsError(f"{source}: url is missing, or else file, that of a ChatGLM model")
        if values.keys() >= {"url", "file"}:
            raise SettingsError(f"{source}: url and file are two backends")
        fits = ("auto", "chatglm") if "file" in values else ("auto", "llamacpp")
        if values.get("kind", "auto") not in fits:
            here = "file" if "file" in values else "url"
            raise SettingsError(f"{source}: kind: a backend with a {here} is {fits[1]}")
        found.append(BackendConfig(**values))
    return tuple(found)


def _mcp(raw: Any, path: str) -> tuple[McpConfig, ...]:
    try:
        servers = msgspec.convert(raw, tuple[McpConfig, ...])
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}: mcp: {error}") from None
    for one in servers:
        if bool(one.command) == bool(one.url):
            raise SettingsError(f"{path}: mcp {one.name}: a command is needed, or else a url")
        if one.url:
            try:
                _url(one.url)
            except ValueError as error:
                raise SettingsError(f"{path}: mcp {one.name}: url: {error}") from None
    if len({one.name for one in servers}) != len(servers):
        raise SettingsError(f"{path}: mcp: two servers have one name")
    return servers


def _read_keys(path: str, source: str) -> tuple[ApiKey, ...]:
    try:
        return api_keys.read(_read_text(path, source), path)
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(f"{source}: {error}") from None


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from flags, environment and the file that ``--config`` names.

    Raises ``SettingsError``; ``--help`` and ``--version`` print and raise ``SystemExit(0)``.
    """
    parsed, unknown = _parser().parse_known_args(list(argv))
    if unknown:
        # Only the name: what follows may be a key behind a mistyped flag.
        raise _no_such("flags", unknown[0].split("=")[0], [row.flag for row in table()])
    given = vars(parsed)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    for config, source in (
        (given.pop("config", ""), "--config"),
        (environ.get(ENV_PREFIX + "CONFIG", ""), ENV_PREFIX + "CONFIG"),
    ):
        if config:
            values = _from_file(config, source)
            sources = {name: f"{config}: {name}" for name in values}
            break

    for gone, reason in GONE_SETTINGS.items():
        if environ.get(removed := ENV_PREFIX + gone.upper()):
            raise SettingsError(f"{removed}: {reason}")
    for row in table():
        raw: Any = None
        source = ""
        # An empty variable counts as unset: that is how compose files pass "nothing".
        if environ.get(row.variable):
            raw, source = environ[row.variable], row.variable
        elif row.name == "workers" and environ.get("WEB_CONCURRENCY"):
            # gunicorn's own variable, set by hosting platforms: heard, so that it can be refused.
            raw, source = environ["WEB_CONCURRENCY"], "WEB_CONCURRENCY"
        if row.name in given:
            raw, source = given[row.name], row.flag
        if source:
            values[row.name], sources[row.name] = _value(row, raw, source), source

    named = {"llama_api", "chatglm_model", "backend"} & values.keys()
    variables = {n: v for v, n in _CHATGLM_VARIABLES.items() if environ.get(v)}
    if "chatglm_model" in values or (variables.get("chatglm_model") and not named):
        # They are common words, so they count only where a model is run here.
        for row in table():
            variable = variables.get(row.name)
            if variable and row.name not in values:
                values[row.name] = _value(row, environ[variable], variable)
                sources[row.name] = variable
        named.add("chatglm_model")
    if "llama_api" not in named and any(values.get(name) for name in named):
        values["llama_api"] = ()  # the default address is for those who named none
    values["names_backend"] = bool(named)
    if values.get("all"):
        values = {**dict.fromkeys(EVERYTHING, True), **values}
    if values.get("api_key_file"):
        values["file_keys"] = _read_keys(values["api_key_file"], sources["api_key_file"])
    values["warnings"] = _warnings(values, sources, config)
    return _agree(Settings(**values), sources)


def _warnings(
    values: Mapping[str, Any], sources: Mapping[str, str], config: str
) -> tuple[str, ...]:
    """What is allowed but shows keys to other users of this machine; `config` is the file's path,
    if there is one."""
    found = []
    in_file = any(one.api_key for one in values.get("backend", ()))
    in_file |= any(one.env or one.headers for one in values.get("mcp", ()))
    for row in table():
        value = values.get(row.name)
        # An address of a state is a secret for the password that may be in it.
        if row.item is not Secret or not value or (row.name == "state" and "@" not in value):
            continue
        source = sources[row.name]
        if source == row.flag:
            instead = row.variable + (" or --api-key-file" if row.name == "api_key" else "")
            found.append(f"{source} can be read by every user of this machine (ps); use {instead}")
        in_file |= source not in (row.flag, row.variable)
    if in_file:
        found += _shown(config)
    if values.get("api_key_file"):
        found += _shown(values["api_key_file"])
    return tuple(found)


def _shown(path: str) -> list[str]:
    if not private.shown(Path(path).expanduser()):
        return []
    return [f"{path} holds keys and can be read by every user of this machine; chmod o-r {path}"]


def _agree(settings: Settings, sources: Mapping[str, str]) -> Settings:
    """What concerns more than the form of one value."""

    def wrong(name: str, why: str) -> SettingsError:
        return SettingsError(f"{sources.get(name, name)}: {why}")

    if settings.workers != 1:
        if not settings.state:
            raise wrong("workers", one_worker(settings.workers))
        if settings.server != "gunicorn":
            raise wrong("workers", "waitress has one process; several may share one --state")
        if why := each_its_own(settings):
            raise wrong("workers", why)
    if settings.server == "gunicorn" and sys.platform == "win32":
        raise wrong("server", "gunicorn does not run on Windows; use waitress")
    if not settings.host:
        raise wrong("host", "expected an address to listen on, got ''")
    for engine, needed in ENGINES_NEED.items():
        if engine in settings.search_engine and not getattr(settings, needed):
            flag = "--" + needed.replace("_", "-")
            raise wrong("search_engine", f"{engine} needs {flag}")
    template = settings.chat_template
    shipped = sorted(path.stem for path in (templates() / "chat").glob("*.jinja"))
    if template not in ("auto", "legacy", *shipped) and not Path(template).is_file():
        names = ", ".join(["auto", "legacy", *shipped])
        raise wrong("chat_template", f"{template!r} is neither a file nor one of {names}")
    keys = settings.keys
    if why := api_keys.conflict(keys):
        raise wrong("api_key_file" if settings.file_keys else "api_key", why)
    for name in settings.admins:
        if why := api_keys.no_such_admin(name, keys):
            raise wrong("admins", why)
    backends = settings.backends
    if not backends:
        raise wrong("llama_api", "no backend is left")
    for what in ("address", "name"):
        seen = [getattr(one, what) for one in backends]
        for one in seen:
            if seen.count(one) > 1:
                plain = "chatglm_model" if settings.chatglm_model else "llama_api"
                source = "backend" if settings.backend else plain
                raise wrong(source, f"two backends have the {what} {one!r}")
    return settings


def one_worker(number: int) -> str:
    """Why ``number`` workers are refused; also said by the gunicorn hooks."""
    return (
        f"{number} workers asked for, but only 1 works: the slots of the backends are counted in "
        "one table, and two processes would count them twice (one gevent worker carries a thousand "
        "streams; --state redis://… lets several share the table)"
    )


def each_its_own(settings: Settings) -> str:
    """Why several workers cannot share what they run, "" where they can."""
    models = settings.is_default or any(one.file for one in settings.backends)
    if settings.chatglm_isolation == "thread" and models:
        return "each would load the ChatGLM model: only --chatglm-isolation process is shared"
    return ""


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Settings without flags, as ``gunicorn proxy.wsgi`` has them."""
    return load((), environ)
