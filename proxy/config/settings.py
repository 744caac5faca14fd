"""The table of settings: the class ``Settings``. Flags, variables, the keys of the file, ``--help``
and the documentation (``tools/generated_docs.py``) are derived from its fields.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from ..accounts.limiting.budgets import Price
from ..core import late_binding
from . import keys, routes, validators
from .keys import ApiKey, Secret, unnamed
from .models import ModelConfig
from .routes import Place, RouteConfig
from .validators import SettingsError as SettingsError

WINDOWS = sys.platform == "win32"  # it has no gunicorn
_NO_KEY = Secret("")
Texts = tuple[str, ...]
ChatMode = Literal["auto", "native", "completion"]
Overflow = Literal["refuse", "compact"]
Loops = Literal["auto", "off", "end", "mend"]


# The group of a setting in the help, its help, a validator, and bounds of its value.
Declared = tuple[str, str, Callable[[Any], Any] | None, msgspec.Meta]
_declared: list[Declared] = []


def _group(name: str) -> Callable[..., Any]:
    """A function that declares the settings of a group: it returns their default."""

    def setting(
        default: Any, text: str, check: Callable[[Any], Any] | None = None, **bounds: Any
    ) -> Any:
        # `title` is what --help shows for the value, where type and check do not say it.
        _declared.append((name, text, check, msgspec.Meta(**bounds)))
        return default

    return setting


def _above() -> tuple[Declared, ...]:
    """What is declared of the fields of a struct so far, in their order."""
    above = tuple(_declared)
    _declared.clear()
    return above


_key = _group("")  # of a table of the file


class BackendConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A ``[[backend]]`` table, an address, a ChatGLM model, or a model to start."""

    url: str = _key("", "address of the server, with or without /v1", validators.server)
    file: str = _key(
        "", "ChatGLM model file to run in this gateway, instead of a URL", validators.path
    )
    name: str = _key("", "name in logs and in /v1/backends; default: host and port")
    model: str = _key("", "model name to serve; default: the name the server reports")
    aliases: Texts = _key((), "other names of the model")
    kind: Literal["auto", "llamacpp", "chatglm", "openai"] = _key(
        "auto",
        "auto: detected; llamacpp: a server of llama.cpp, or PowerInfer's; openai: any other server"
        " with OpenAI's API",
    )
    slots: int = _key(0, "parallel requests; 0: use --slots", ge=0, le=1024)
    ctx_size: int = _key(0, "tokens per slot; 0: use --ctx-size", ge=0)
    weight: float = _key(1.0, "relative share of the load", gt=0, le=1000)
    api_key: Secret | None = _key(None, "API key to send to this server", keys.checked)
    chat_mode: ChatMode | None = _key(None, "overrides --chat-mode for this server")
    by_prompt: tuple[Literal["tools", "required", "schemas"], ...] = _key(
        (), "what a server of the kind openai ignores, so that the prompt describes it"
    )
    on_overflow: Overflow | None = _key(None, "overrides --on-overflow for this server's model")
    loops: Loops | None = _key(None, "overrides loops of [referee] for this server's model")
    max_reasoning_tokens: int | None = _key(
        None, "overrides max_reasoning_tokens of [referee] for this server's model", ge=0
    )
    late_binding: Texts = _key(
        (), "beginnings of lines of the system message that are moved to its end", late_binding.rule
    )
    rows: ClassVar[tuple[Declared, ...]] = _above()
    # Not keys of the table: the model to start instead of a URL, and the place in a [[route]].
    launch: ModelConfig | None = None
    place: Place | None = None

    @property
    def address(self) -> str:
        """What it is reached by, for messages: a URL, a file, or the name of a model."""
        return self.url or self.file or f"model:{self.name}"

    @property
    def target(self) -> str:
        """Its address, and its model if the address has several."""
        address = self.address.removesuffix("/v1")
        is_one_of_several = self.kind == "openai" and self.model
        return f"{address} {self.model}" if is_one_of_several else address


class McpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An ``[[mcp]]`` table of the file: an MCP server whose tools an agent may use, once
    ``--tools`` names it: a command, or a URL. ``tools`` are the allowed names, empty for all."""

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    env: dict[str, str] = {}
    headers: dict[str, str] = {}
    tools: tuple[str, ...] = ()

    def __repr__(self) -> str:  # env and headers contain keys
        return f"McpConfig({self.name!r})"


class ChatGLMConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The ``[chatglm]`` table of the file: how the models of ``--chatglm-model`` run."""

    isolation: Literal["process", "thread"] = _key(
        "process", "run a model in a child process, or in a thread, which blocks the gateway"
    )
    load: Literal["start", "lazy"] = _key("start", "load a model at the start or when asked for")
    threads: int = _key(0, "threads per model; 0: number of cores minus one", ge=0, le=1024)
    rows: ClassVar[tuple[Declared, ...]] = _above()


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The ``[agent]`` table of the file: the bounds of an answer that uses ``--tools``. In the last
    round the model must answer with what it has."""

    rounds: int = _key(6, "maximum model calls per agent answer", ge=1, le=100)
    timeout: float = _key(120.0, "time limit for an agent answer in seconds", gt=0)
    tokens: int = _key(4096, "maximum tokens per agent answer", ge=1, le=1 << 24)
    tool_timeout: float = _key(30.0, "time limit for a tool call in seconds", gt=0, le=3600)
    rows: ClassVar[tuple[Declared, ...]] = _above()


class SearchConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The ``[search]`` table of the file: keys and time of ``--search-engine``."""

    brave_key: Secret = _key(_NO_KEY, "API key for Brave Search", keys.checked)
    tavily_key: Secret = _key(_NO_KEY, "API key for Tavily", keys.checked)
    timeout: float = _key(15.0, "seconds for a web search, including reading pages", gt=0, le=600)
    rows: ClassVar[tuple[Declared, ...]] = _above()


class OidcConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The ``[oidc]`` table of the file: the OpenID provider at which users sign in."""

    issuer: str = _key(
        "",
        "address of the provider, as it names itself; requires admins",
        validators.issuer,
    )
    client_id: str = _key("", "id of this gateway at the OpenID provider")
    client_secret: Secret = _key(_NO_KEY, "secret of this gateway, if it has one", Secret)
    name: str = _key("", "name of the provider on the sign-in page; default: its host")
    scopes: str = _key("openid profile email", "scopes to ask for, with spaces between them")
    redirect_url: str = _key(
        "", "address of /signin/oidc/callback; default: by the request", validators.url
    )
    user_claim: str = _key("email", "claim with the user's id; a.b: the field b of the claim a")
    team_claim: str = _key("", "claim with ids of teams; the first known one is the user's")
    admins: Texts = _key(
        (), "CLAIM=VALUE that makes a user an administrator, as groups=ops", validators.claim_value
    )
    allow: Texts = _key(
        (), "CLAIM=VALUE, one of which users need to sign in; none: all may", validators.claim_value
    )
    rows: ClassVar[tuple[Declared, ...]] = _above()


class OtelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The ``[otel]`` table of the file: traces, which the standard's variables switch on."""

    parent: Literal["join", "link"] = _key(
        "join",
        "a request with traceparent: join that trace, or begin one of its own with a link to it,"
        " for viewers that do not have the client's spans",
    )
    rows: ClassVar[tuple[Declared, ...]] = _above()


class RefereeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The ``[referee]`` table of the file: answers that repeat themselves, and thoughts."""

    loops: Loops = _key(
        "auto",
        "answers that repeat themselves: end them, mend them (the answer goes on), off, or auto:"
        " mend reasoning, end text",
    )
    max_reasoning_tokens: int = _key(
        0, "tokens of reasoning in an answer to a request that does not say; 0: any", ge=0
    )
    rows: ClassVar[tuple[Declared, ...]] = _above()


class CapturesConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The ``[captures]`` table of the file: the bounds of what ``--capture`` keeps."""

    size: int = _key(256 << 20, "bytes on disk; the oldest make room", ge=1 << 20)
    days: float = _key(7.0, "days after which they are deleted", gt=0, le=3650)
    rows: ClassVar[tuple[Declared, ...]] = _above()


# Tables of the file. A key of theirs has no flag, but a variable, as SLOTPROXY_OIDC_ISSUER.
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "chatglm": ChatGLMConfig,
    "agent": AgentConfig,
    "search": SearchConfig,
    "oidc": OidcConfig,
    "otel": OtelConfig,
    "captures": CapturesConfig,
    "referee": RefereeConfig,
}

_serving = _group("Serving")
_storage = _group("Storage")
_backends = _group("Backends")
_models = _group("Models on demand")
_prompts = _group("Prompts")
_admission = _group("Admission and limits")
_access = _group("Access")
_logging = _group("Logs and metrics")
_search = _group("Search and tools")

_DEFAULT_SERVER: Literal["gunicorn", "waitress"] = "waitress" if WINDOWS else "gunicorn"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. Times are in seconds, sizes in bytes, contexts in tokens."""

    llama_api: Texts = _backends(
        ("http://127.0.0.1:8080", "http://127.0.0.1:9931"),
        "address of a model server, with or without /v1: llama.cpp's, PowerInfer's, Ollama, vLLM or"
        " any other with OpenAI's API. A default is used if a server listens there",
        validators.server,
    )
    embedding_api: Texts = _backends(
        (), "URL of a server used only for embeddings; none: use the backends", validators.server
    )
    local_embeddings: bool = _backends(True, "without --embedding-api: use the extra embed's model")
    rerank_api: Texts = _backends(
        (), "URL of a server used only for reranking; none: use the backends", validators.server
    )
    slots: int = _backends(0, "parallel requests per backend; 0: detect them", ge=0, le=1024)
    ctx_size: int = _backends(0, "tokens of context per slot; 0: detect them", ge=0, le=1 << 30)
    timeout: float = _backends(600.0, "seconds to wait for the next byte from a backend", gt=0)
    health_interval: float = _backends(5.0, "seconds between health checks of a backend", gt=0)

    models_dir: str = _models(
        "", "folder of GGUF files that --llama-server starts", validators.folder
    )
    llama_server: str = _models(
        "llama-server",
        "command that starts a model of --models-dir, without model, host and port",
        title="COMMAND",
    )
    models_max: int = _models(0, "started models that are loaded at once; 0: any number", ge=0)
    models_ttl: float = _models(
        0.0, "idle seconds after which a model of --models-dir is unloaded; 0: never", ge=0
    )
    memory: str = _models(
        "", "memory for all started models, as 24GiB; empty: any", validators.size
    )
    gpu_memory: str = _models(
        "",
        "the same of each graphics card, as 24GiB,16GiB; empty: as nvidia-smi says",
        validators.sizes,
    )
    swap_wait: float = _models(
        10.0, "seconds that a model waits for idle ones to unload, before busy ones drain", ge=0
    )

    chatglm_model: Texts = _models(
        (), "chatglm_cpp model file to run in this gateway", validators.path
    )

    vision: str = _backends(
        "", "model that describes images for models that do not see; empty: they are refused"
    )
    continue_broken: bool = _backends(True, "continue an answer elsewhere if its backend fails")

    chat_template: str = _prompts(
        "auto",
        "auto (the server's own, else that of its model file or name, else legacy), legacy (plain"
        " text, by the flags below), the name of a template in templates/chat, or a file",
        validators.path,
        title="NAME|FILE",
    )
    chat_prompt: str = _prompts(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant follows the given rules no matter what.\n",
        "legacy: text at the start of the prompt",
        validators.unescaped,
    )
    user_name: str = _prompts(
        "\nUSER: ", "legacy: text before users' messages", validators.unescaped
    )
    ai_name: str = _prompts("\nASSISTANT: ", "legacy: text before answers", validators.unescaped)
    system_name: str = _prompts(
        "\nASSISTANT's RULE: ", "legacy: text before system messages", validators.unescaped
    )
    stop: str = _prompts("</s>", "legacy: text that ends an answer", validators.unescaped)
    sampling: Texts = _prompts(
        (), "sampling parameter of requests without it, as temperature=0.2", validators.sampler
    )
    chat_mode: ChatMode = _prompts(
        "auto",
        "where chats are rendered and parsed: completion (the gateway), native (the llama-server),"
        " auto (the gateway, except for images, audio and unknown templates)",
    )
    user_control_tokens: Literal["break", "keep"] = _prompts(
        "break",
        "control tokens of the template in users' messages: break (they are ordinary text), keep"
        " (they act, for clients that write prompts themselves)",
    )
    on_overflow: Overflow = _prompts(
        "refuse", "conversations beyond the context: refuse them, or sum up their oldest turns"
    )
    reasoning_format: Literal["deepseek", "none", "raw"] = _prompts(
        "deepseek", "deepseek (in reasoning_content), none (in the text), raw (unmodified output)"
    )

    host: str = _serving("127.0.0.1", "address to listen on", title="ADDRESS")
    port: int = _serving(8081, "port to listen on; 0: any free port", ge=0, le=65535)
    data: str = _storage("", "data directory; empty: the user's data directory", validators.folder)
    database: str = _storage(
        "", "database, as postgresql://…; empty: SQLite in --data", title="URL"
    )
    max_document: int = _storage(67108864, "maximum size of a document in bytes", ge=1, le=1 << 30)
    quota_bytes: int = _storage(
        10737418240, "bytes of files, documents and questions per API key; 0: unlimited", ge=0
    )
    chatchat: bool = _serving(False, "also serve the API of Langchain-Chatchat")
    pages: bool = _serving(True, "serve the web pages at /: chat, knowledge, models, status")
    api_prefix: str = _serving("", "path prefix of all routes, for example /llm", validators.prefix)
    alias: Texts = _serving((), "name of the served model, and aliases of it")
    default_model: str = _serving("", "model used for unknown names when several models are served")
    strict_models: bool = _serving(False, "404 for an unknown model name, even with one model")
    server: Literal["gunicorn", "waitress"] = _serving(
        _DEFAULT_SERVER, "WSGI server; on Windows only waitress is available"
    )
    watch_config: bool = _serving(
        False, "apply a changed settings file, or folder of --models-dir, as SIGHUP does"
    )
    workers: int = _serving(1, "worker processes; more than 1 requires --state", ge=1)
    state: Secret = _serving(
        _NO_KEY,
        "redis://HOST:PORT/DB (or rediss://, valkey://, unix://PATH), where several workers or"
        " hosts share slots, queue and limits; empty: in the process",
        validators.state_url,
    )
    state_name: str = _serving("default", "slot table in --state, one for each set of backends")

    max_queue: int = _admission(256, "queued requests, beyond which others get 429", ge=0)
    queue_timeout: float = _admission(300.0, "maximum seconds a request waits for a slot", gt=0)
    budget_webhook: Secret = _admission(
        _NO_KEY, "URL that gets a POST when a budget reaches a limit", validators.webhook
    )
    wait_for_backend: float = _admission(
        10.0, "seconds that a request waits while no backend for its model is up, before 503", ge=0
    )
    slot_disk: int = _admission(8 << 30, "bytes of saved slots per backend; 0: none", ge=0)
    max_body: int = _admission(33554432, "bytes of a request body", ge=1024, le=1 << 40)

    api_key: tuple[Secret, ...] = _access((), "API key that clients must send", keys.checked)
    api_key_file: str = _access(
        "",
        "file of API keys, one per line: KEY or NAME KEY, then options: group=NAME (keys of one"
        " group share their prompt cache), priority=high|normal|low, on_overflow=refuse|compact,"
        " and rights and limits such as models=qwen*,tiny rpm_limit=60",
        title="FILE",
    )
    admins: Texts = _access((), "names of API keys that may manage slots and see backend addresses")
    wrong_keys: int = _access(
        20, "invalid keys per address and minute, before new ones there get 429; 0: any", ge=0
    )
    trusted_proxies: Texts = _access(
        (),
        "address or network of a proxy whose X-Forwarded-For is trusted; unix: Unix sockets",
        validators.trusted_proxy,
    )
    cors_origins: Texts = _access(
        (), "origin whose pages may call this API, or a host for all its origins", validators.origin
    )

    allowed_hosts: Texts = _access(
        (),
        "without API keys: host name that clients may use, besides localhost, IP addresses and"
        " private network names; .example.org: all subdomains; *: any",
        validators.allowed_host,
    )

    search_engine: tuple[Literal["ddgs", "searxng", "brave", "tavily"], ...] = _search(
        (), "web search engine; the first is the default; none: web search is disabled"
    )
    searxng_url: str = _search("", "URL of a SearXNG server with the json format", validators.url)
    tools: Texts = _search(
        (),
        "tool that agents may use: calculator, time, knowledge_search, web_search, an installed"
        " function (entry point slotproxy.tools) or an [[mcp]] server",
    )
    mcp_url: Texts = _search(
        (),
        "URL of MCP servers that requests may name, as https://mcp.example.com/*; private"
        " addresses only if the host is an address; none: only configured servers",
        validators.mcp_url,
    )

    metrics: bool = _logging(False, "serve GET /metrics")
    ledger_days: int = _logging(
        90, "days for which each request is kept for the Usage page; 0: record none", ge=0
    )
    capture: Literal["off", "failed", "all"] = _logging(
        "off",
        "requests of which prompt and answer are kept, for the page Requests; keys may differ",
    )
    log_level: Literal["debug", "info", "warning", "error"] = _logging("info", "minimum log level")
    log_format: Literal["auto", "text", "json"] = _logging(
        "auto", "text (lines for people), json (for programs), auto (text on a terminal)"
    )

    rows: ClassVar[tuple[Declared, ...]] = _above()
    # Without a flag: the tables of the file.
    chatglm: ChatGLMConfig = ChatGLMConfig()
    agent: AgentConfig = AgentConfig()
    search: SearchConfig = SearchConfig()
    oidc: OidcConfig = OidcConfig()
    otel: OtelConfig = OtelConfig()
    captures: CapturesConfig = CapturesConfig()
    referee: RefereeConfig = RefereeConfig()
    backend: tuple[BackendConfig, ...] = ()
    model: tuple[ModelConfig, ...] = ()
    mcp: tuple[McpConfig, ...] = ()
    price: tuple[Price, ...] = ()
    route: tuple[RouteConfig, ...] = ()
    aliases: dict[str, str] = {}  # models by patterns of names that no model has
    # Not settings:
    file_keys: tuple[ApiKey, ...] = ()  # of --api-key-file
    names_backend: bool = False  # whether any backend was named
    config_file: str = ""
    warnings: tuple[str, ...] = ()  # to print at the start

    @property
    def backends(self) -> tuple[BackendConfig, ...]:
        """All backends, with names, kinds, slots and contexts. Models to start come last."""

        def name(backend: BackendConfig) -> str:
            place = Path(backend.file).stem or backend.url.partition("://")[2].rstrip("/")
            if backend.kind != "openai":
                place = place.removesuffix("/v1")
            # One address has many models, each with a backend of its own.
            named = backend.kind == "openai" and backend.model
            return f"{place}/{backend.model}" if named else place

        servers = (BackendConfig(url=url) for url in self.llama_api)
        models = (BackendConfig(file=file) for file in self.chatglm_model)
        launched = (
            BackendConfig(
                name=model.name,
                model=model.name,
                slots=model.places,
                ctx_size=model.ctx_size,
                on_overflow=model.on_overflow,
                loops=model.loops,
                max_reasoning_tokens=model.max_reasoning_tokens,
                late_binding=model.late_binding,
                launch=model,
            )
            for model in self.model
        )
        places = routes.places(self.route)
        return tuple(
            msgspec.structs.replace(
                backend,
                name=backend.name or name(backend),
                place=places.get(backend.name or name(backend)),
                kind="chatglm" if backend.file else backend.kind,
                # A ChatGLM model runs one request at a time.
                slots=1 if backend.file else backend.slots or self.slots,
                ctx_size=backend.ctx_size or self.ctx_size,
            )
            for backend in (*servers, *models, *self.backend, *launched)
        )

    @property
    def memory_bytes(self) -> int:
        """The memory for models that are started here, 0 for any."""
        return validators.in_bytes(self.memory)

    @property
    def gpu_memory_bytes(self) -> tuple[int, ...]:
        """The memory of each graphics card for models that are started here."""
        return validators.each_in_bytes(self.gpu_memory)

    @property
    def sampler_defaults(self) -> dict[str, Any]:
        """Defaults for the sampling fields of requests."""
        pairs = (item.partition("=") for item in self.sampling)
        return {name: msgspec.json.decode(value) for name, _, value in pairs}

    @property
    def is_default(self) -> bool:
        """Whether no backend was named."""
        return not self.names_backend and self.backends == Settings().backends

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """All API keys. Empty: the API is open."""
        return (*map(unnamed, self.api_key), *self.file_keys)
