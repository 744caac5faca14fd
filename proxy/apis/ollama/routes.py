"""Routes of Ollama's API."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NoReturn

import msgspec
from flask import Response, request

from ...downloads.download import Download, shown
from ...errors import ModelNotFound, Unsupported
from ...hosting.model import HostedModel
from ...runtime.blocking import run_in_native_thread
from ...runtime.cancel import Cancel
from ...web import downloads
from ...web.fastpath import BodyAndHeaders, Environ, post
from ...web.observability import Record
from ...web.permissions import check_model, local_model, visible
from ...web.routes import LINES, Api
from ...web.services import Services
from ...web.spine import STREAM_HEADERS, completion_view, json_route, passthrough, sent_json
from ...web.stream import ClosingBody
from .. import schema_fields as doc
from ..fields import flag, model_name, text
from ..response_meta import ResponseMeta
from . import dialects
from .dialects import chat, generate, untagged

VERSION = "0.12.6"  # the Ollama version reported; clients require a minimum
PERIOD = 0.5  # seconds between two lines about a download
PATIENCE = 30.0  # seconds for a download to begin, before the answer does
NEVER = "9999-12-31T23:59:59Z"

blueprint = Api(
    "ollama",
    __name__,
    group="ollama",
    tag="Ollama",
    ledger="ollama",
    error=dialects.error,
    error_schema="OllamaError",
    owns="/api/",
    schemas={
        "OllamaChatRequest": doc.body(**dialects.CHAT),
        "OllamaGenerateRequest": doc.body(**dialects.GENERATE),
        "OllamaPullRequest": doc.body(
            model=doc.text("A repository of GGUF files.", "hf.co/Qwen/Qwen3-8B-GGUF:Q4_K_M"),
            name=doc.text("The same, in the older form.", "hf.co/Qwen/Qwen3-8B-GGUF"),
            stream=doc.flag("Answer with lines of progress; true by default."),
        ),
        "OllamaShowRequest": doc.body(
            model=doc.text("The model's name. Here any name must be one that is served.", "any"),
            name=doc.text("The same, in the older form.", "any"),
        ),
        "OllamaError": doc.object_of("error", error=doc.TEXT),
    },
)
_route = partial(json_route, blueprint)


@post(blueprint, "/api/chat", body="OllamaChatRequest", streams=LINES)
def chat_(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A chat, streamed unless `stream` is false."""
    early = _early(services, environ, "messages", message={"role": "assistant", "content": ""})
    return completion_view(services, environ, chat, "", early=early)


@post(blueprint, "/api/generate", body="OllamaGenerateRequest", streams=LINES)
def generate_(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A completion, streamed unless `stream` is false."""
    return completion_view(
        services, environ, generate, "", early=_early(services, environ, "prompt", response="")
    )


def _early(
    services: Services, environ: Environ, field: str, **empty: Any
) -> Callable[[dict[str, Any], Cancel], dict[str, Any] | None]:
    """Return a handler for requests without messages or prompt, which only load or unload the
    model. It also applies `keep_alive`, for admins, to a model that the gateway starts."""

    def answer(raw: dict[str, Any], cancel: Cancel) -> dict[str, Any] | None:
        only = not (raw.get(field) or raw.get("suffix"))
        keep = dialects.keep_alive(raw)
        if keep is None and not only:
            return None
        registry = services.gateway.registry
        model_asked = untagged(text(raw, "model"))
        check_model(services, environ, model_asked)
        pool, name = registry.resolve(model_asked)
        model = services.host.find(pool)
        key = Record.of(environ).key
        if model is not None and services.keys.is_admin(key):
            if only and keep == 0:
                model.stop()
            elif keep is not None:
                model.ttl = keep
            if only and keep != 0:
                # Ollama's clients expect the answer once the model is loaded.
                for _ in model.use(cancel, services.settings.timeout, services.settings.timeout):
                    pass
                model.leave(answered=False)
        if not only:
            return None
        began = time.time()
        meta = ResponseMeta("", int(began), name, elapsed=lambda: began % 1)
        return {**dialects.loaded(raw, meta), **empty}

    return answer


@_route("GET", "/api/version")
def version(services: Services, record: Record) -> Any:
    """The version of Ollama that is spoken here."""
    return {"version": VERSION}


@_route("GET", "/api/tags")
def tags(services: Services, record: Record) -> Any:
    """The models served, without the one that only makes embeddings: clients offer these for
    chats."""
    names = visible(services, request.environ, services.gateway.registry.names())
    return {"models": [_Model(services, name).tag() for name in names]}


@_route("GET", "/api/ps")
def running(services: Services, record: Record) -> Any:
    """The models that are loaded."""
    names = visible(services, request.environ, services.gateway.registry.names())
    models = [_Model(services, name) for name in names]
    return {"models": [m.running() for m in models if m.status in ("", "loaded", "sleeping")]}


@_route("POST", "/api/show", body="OllamaShowRequest")
def show(services: Services, record: Record) -> Any:
    """One model."""
    name = parse_show(sent_json())
    if name not in services.gateway.registry.names():
        if name == local_model(services, request.environ):
            return _Model(services, name, local=True).shown()
        raise ModelNotFound(f"model {name[:100]!r} not found")
    check_model(services, request.environ, name)
    return _Model(services, name).shown()


def parse_show(body: Mapping[str, Any]) -> str:
    """The name of the model that is asked about. Raises InvalidParameter."""
    return untagged(model_name(body) or text(body, "name"))


def parse_pull(body: Mapping[str, Any]) -> tuple[str, bool]:
    """What to download, and whether the answer has lines of progress. Raises InvalidParameter."""
    return model_name(body) or text(body, "name"), flag(body, "stream", True)


@_route("POST", "/api/pull", body="OllamaPullRequest", streams=LINES)
def pull(services: Services, record: Record) -> Any:
    """A model of Hugging Face downloaded into the folder of models, as `hf.co/OWNER/REPO:QUANT`;
    for keys with the right `pull`. Ends when the client disconnects; the next one continues it."""
    downloads.check(services, record.key)
    raw = sent_json()
    name, streams = parse_pull(raw)
    download = downloads.begin(services, record.key, name)
    download.listed.wait(PATIENCE)
    if not streams or download.error is not None:
        download.wait()
        return {"status": "success"}
    lines = ClosingBody(_progress(download), download.cancel, lambda: None)
    return passthrough(lines, LINES, [*STREAM_HEADERS])


def _progress(download: Download) -> Iterator[bytes]:
    digest = f"sha256:{hashlib.sha256(shown(download.reference).encode()).hexdigest()}"
    while not download.ended.wait(PERIOD):
        status = "verifying sha256 digest" if download.checking else "pulling " + digest[7:19]
        sizes = {"total": download.said.size, "completed": download.bytes}
        yield msgspec.json.encode({"status": status, "digest": digest, **sizes}) + b"\n"
    error = download.error
    last = {"status": "success"} if error is None else {"error": error.message}
    yield msgspec.json.encode(last) + b"\n"


@_route("DELETE POST", "/api/delete", body="OllamaShowRequest", endpoint="delete")
def delete(services: Services, record: Record) -> Any:
    """Delete a model of the folder of models; for keys with the right `pull`."""
    downloads.check(services, record.key)
    name = parse_show(sent_json())
    downloads.delete(services, record.key, name)
    return {}


@_route("POST", "/api/push", "/api/create", "/api/copy")
@_route("HEAD POST", "/api/blobs/<path:digest>", endpoint="blobs")
def not_ours(services: Services, record: Record, digest: str = "") -> NoReturn:
    """Always 400: models are chosen where the backends are started."""
    raise Unsupported("models are configured when the backends start, or downloaded by /api/pull")


class _Model:
    """A model as Ollama lists it: a served one, or the `local` embedding model. The size of its
    file is known if the gateway starts it. The digest is of its name."""

    family, parameters, quantization, status = "use", "", "", ""
    size = on_disk = n_ctx = 0
    hosted: HostedModel | None = None

    def __init__(self, services: Services, name: str, *, local: bool = False) -> None:
        self.name = name
        self.created = dialects.timestamp(services.started)
        self.is_local = local
        if local:
            return
        registry = services.gateway.registry
        pool, _ = registry.resolve(name)
        self.backends = registry.pool(pool)
        self.hosted = services.host.find(pool)
        self.sees = services.gateway.accepts_images(name)
        self.status = registry.status(pool)
        self.n_ctx = max((backend.n_ctx for backend in self.backends), default=0)
        self.family = "llama"
        if self.hosted is not None:
            self.size = sum(self.hosted.need)
            if (file := self.hosted.needs.file) is not None:
                self.on_disk, self.quantization = file.size, file.quantization
                self.family = file.family or self.family
                self.parameters = file.text("general.size_label")

    def _details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.family,
            "families": [self.family],
            "parameter_size": self.parameters,
            "quantization_level": self.quantization,
        }

    def _entry(self) -> dict[str, Any]:
        # With a tag, as Ollama lists all models: clients look for it there.
        tagged = self.name if ":" in self.name else f"{self.name}:latest"
        return {
            "name": tagged,
            "model": tagged,
            "size": self.size,
            "digest": hashlib.sha256(self.name.encode()).hexdigest(),
            "details": self._details(),
            **({"status": self.status} if self.status else {}),
        }

    def tag(self) -> dict[str, Any]:
        return {**self._entry(), "size": self.on_disk or self.size, "modified_at": self.created}

    def running(self) -> dict[str, Any]:
        """An entry of /api/ps, for a model that is loaded."""
        left = self.hosted.left if self.hosted is not None else math.inf
        return {
            **self._entry(),
            "expires_at": NEVER if left == math.inf else dialects.timestamp(time.time() + left),
            "size_vram": sum(self.hosted.needs.cards) if self.hosted is not None else 0,
            "context_length": self.n_ctx,
        }

    def shown(self) -> dict[str, Any]:
        template, n_ctx, can = "", self.n_ctx, ["embedding"]
        if not self.is_local:
            caps = [backend.caps for backend in self.backends if backend.caps is not None]
            template = next((each.template for each in caps if each.template), "")
            more = {
                "insert": any(each.infill for each in caps),
                "vision": self.sees,
                "embedding": any(each.embeddings for each in caps),
            }
            can = ["completion", "tools", *(name for name in more if more[name])]
        file = self.hosted.needs.file if self.hosted is not None else None
        if file is not None:
            n_ctx = n_ctx or file.context
            template = template or run_in_native_thread(lambda: file.template)
        return {
            "modelfile": "",
            "parameters": "",
            "template": template,
            "details": self._details(),
            "model_info": {
                "general.architecture": self.family,
                "general.basename": self.name,
                f"{self.family}.context_length": n_ctx,
            },
            "capabilities": can,
            "modified_at": self.created,
        }
