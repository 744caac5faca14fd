"""The driver for a server that speaks OpenAI's API: vLLM, SGLang, Ollama, LM Studio, a cloud …

The server renders prompts and holds its caches itself, so a slot is a place in its batch. Requests
are always streamed, since only closing a stream ends a generation. A probe only lists the models,
because a token may cost money.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from ...core.sampling import WINDOWS
from ...core.task import CallMaker, Task
from ...errors import AnswerCut, BackendDown, GatewayError, Unsupported, UpstreamTimeout
from ...prompting.prompt import tool_dict
from ...runtime.cancel import Cancel
from ...wire.router import Listed, as_dict
from ..driver import Capabilities, ModelHost, OnCapabilities, Run, ignore
from ..http import Exchange, ForwardedAnswer
from ..http_server import HTTPDriver
from ..probe import ROUTER, document, not_listed
from ..refusals import openai_refusal
from ..relay import message_dicts
from . import ollama, server_types
from .run import OpenAIRun, native_formats, path, payload
from .server_types import BY_OWNER, OLLAMA, UNKNOWN, ListedModel, ServerType

GET_TIMEOUT = 5.0  # seconds for a whole answer
FRESH = 0.2  # seconds for which a list of models serves the probes of all of them
EXPLAINED = 10.0  # seconds for the reason of an empty stream


class OpenAIServer(HTTPDriver):
    """A driver for one model of the server at `url`, by default the only one; if there are more, a
    probe says so, and `OpenAIHost` makes a driver for each. `by_prompt` are formats of
    `core.request` that its servers do not know. `n_ctx` bounds the context that Ollama is asked
    for, in tokens."""

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        by_prompt: frozenset[str] = frozenset(),
        n_ctx: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(url.rstrip("/"), **options)
        self.options = {**options, "n_ctx": n_ctx}
        self.by_prompt = by_prompt
        self._wanted = model
        self._model = model
        self._server = UNKNOWN
        self._most = n_ctx
        self._details = server_types.Details()
        self._context = 0  # that Ollama was asked for last
        self._pool = self.new_pool()
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(self.url))
        self._careful = self._root = self.new_pool(url=origin)

    def probe(self, deadline: float, on_capabilities: OnCapabilities = ignore) -> Capabilities:
        listed, is_ollama = self.model_list()
        if not listed:
            raise BackendDown("the backend lists no models: pull or load one there")
        # Ollama's list may grow at any time.
        if not self._wanted and (len(listed) > 1 or is_ollama):
            return Capabilities(dialect=ROUTER)
        # Ollama adds a tag to a name without one.
        names = self._wanted or listed[0].name, f"{self._wanted}:latest"
        model = next((model for model in listed if model.name in names), None)
        if model is None:
            raise BackendDown(f"the backend does not list the model {self._wanted}")
        return self._found(model, OLLAMA if is_ollama else UNKNOWN)

    def _found(self, model: ListedModel, otherwise: ServerType) -> Capabilities:
        """What is known of a model; `otherwise` is the server's type if the list does not tell."""
        self._model = model.name
        server = BY_OWNER.get(model.owner, otherwise)
        if server.title:  # its owner alone may be anybody's
            info = as_dict(document(self._root, "/openapi.json")[1].get("info"))
            server = server if server.title in str(info.get("title")) else otherwise
        self._server = server
        self._details = more = server_types.details(server.name, model.name, self._document)
        return Capabilities(
            dialect=server.name,
            slots=more.slots or server.slots,
            most_slots=0 if more.slots else server.most_slots,
            n_ctx=more.n_ctx or model.n_ctx,
            queues=True,
            truncates=False,
            honours_seed=True,
            native=True,
            chat=True,
            json_schema=True,
            tokenize=server.tokenizer is not None,
            ram_cache=True,
            # Where it is not known, the server refuses an image itself if its model has no eyes.
            vision=more.vision is not False,
            audio=server is not OLLAMA,
            lacks=server.lacks,
            by_prompt=server.by_prompt | self.by_prompt | more.by_prompt,
            models=(model.name,),
        )

    def model_list(self) -> tuple[tuple[ListedModel, ...], bool]:
        """The models that the server lists now, and whether it is Ollama. Raises BackendDown."""
        status, answer = document(self._pool, "/models")
        if status == 404:
            raise BackendDown("the backend has no /models: does its url end with /v1?")
        if status != 200:
            raise not_listed(status)
        try:
            listed = server_types.models(answer)
        except ValueError:
            raise BackendDown("the backend's list of models is invalid") from None
        if any(model.owner in BY_OWNER for model in listed):
            return listed, False
        return listed, "version" in document(self._root, "/api/version")[1]

    def _document(self, path: str, body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        return document(self._root, path, body)[1]

    def alive(self) -> bool:
        if self._server.health:
            return self.status_of(self._server.health, GET_TIMEOUT) == 200
        return self.status_of("/models", GET_TIMEOUT, self._pool) == 200

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> Run:
        body = payload(task, self._model, self._server, caps.by_prompt)
        for name in filter(body.__contains__, WINDOWS):
            if body[name] == -1:  # the whole context; llama-server rejects -1
                body[name] = caps.n_ctx or -1
        if self._server is OLLAMA and task.request.is_chat:
            return self._growing(task, body, caps, cancel)
        exchange = self._pool.send("POST", path(task), body, cancel, self._tick)
        explain = partial(self._explain, path(task), body, cancel)
        formats = native_formats(body)
        return OpenAIRun(exchange, task, caps, self._secret, explain, formats=formats)

    def _growing(self, task: Task, body: dict[str, Any], caps: Capabilities, cancel: Cancel) -> Run:
        formats, body = native_formats(body), ollama.payload(body, task.request)

        def send(n_ctx: int) -> Exchange:
            self._context = body["options"]["num_ctx"] = n_ctx
            return self._root.send("POST", ollama.PATH, body, cancel, self._tick)

        # A model that is being loaded is not listed yet.
        loaded = server_types.loaded_context(self._model, self._document) or self._context
        most = self._most or self._details.n_ctx or ollama.UNKNOWN
        sizes = ollama.sizes(body, max(loaded, self._details.set_n_ctx), most)
        return ollama.OllamaRun(send, sizes, task, caps, self._secret, formats=formats)

    def _explain(self, where: str, body: Mapping[str, Any], cancel: Cancel) -> GatewayError:
        """The error for a stream without any event. So llama-cpp-python's server refuses a request
        whose stream has begun; it is asked again without one."""
        whole = {k: v for k, v in body.items() if k != "stream_options"}
        whole |= {"stream": False, self._server.limit: 1}
        seconds = min(self.timeout, EXPLAINED)
        try:
            status, data = self._pool.ask("POST", where, whole, seconds, cancel)
            if status != 200:
                return openai_refusal(status, data, self._secret, native_formats(body))
        except UpstreamTimeout:
            pass
        except GatewayError as error:
            return error
        return AnswerCut("the backend's response ended early", detail="empty response")

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        tokenizer = self._tokenizer
        body: dict[str, Any] = {"model": self._model, tokenizer.asks: text}
        if tokenizer.special:
            body[tokenizer.special] = special
        return self._ids(tokenizer.path, body, cancel)

    def detokenize(self, tokens: list[int]) -> str:
        tokenizer = self._tokenizer
        return self._text(tokenizer.back, {"model": self._model, "tokens": tokens}, tokenizer.text)

    def prompt_ids(self, task: Task, cancel: Cancel | None = None) -> list[int] | None:
        request = task.request
        if not (task.backend_templates and request.is_chat):
            return None
        body = {"model": self._model, "messages": message_dicts(request.messages)}
        if request.tools:
            body["tools"] = [tool_dict(tool) for tool in request.tools]
        template = self._tokenizer.template
        if template == "messages":
            return self._ids(self._tokenizer.path, body, cancel)
        if template == "joined":
            text = "\n".join(message.content for message in request.messages)
            return self.tokenize(text, True, cancel)
        prompt = self._text("/apply-template", body, "prompt", cancel, "prompt")
        return self.tokenize(prompt, True, cancel)

    @property
    def _tokenizer(self) -> server_types.Tokenizer:
        """Raises Unsupported."""
        tokenizer = self._server.tokenizer
        if tokenizer is None:
            raise Unsupported(
                f"this model's backend ({self._server.name}) cannot count or convert tokens"
            )
        return tokenizer

    def forward(self, make: CallMaker, cancel: Cancel) -> ForwardedAnswer:
        call = make(self._model)
        pool, path = self._root, call.path
        if path.startswith("/v1/"):  # below the server's own base, which may have another name
            pool, path = self._pool, path.removeprefix("/v1")
        return ForwardedAnswer(pool, call, path, cancel, tick=self._tick, timeout=self.timeout)

    def _ask(self, path: str, body: object, cancel: Cancel) -> bytes:
        assert isinstance(body, dict)
        named = {**body, "model": self._model}
        return self._post(self._pool, path.removeprefix("/v1"), named, cancel=cancel)

    def _refusal(self, status: int, data: bytes) -> GatewayError:
        return openai_refusal(status, data, self._secret)


# -- a server with several models, such as Ollama or LM Studio ------------------------------------


class OpenAIHost(ModelHost):
    """The models at the address of `driver`."""

    def __init__(self, driver: OpenAIServer) -> None:
        super().__init__(lambda name: OpenAIModel(self, name, driver))
        self._driver = driver
        self.entries: Mapping[str, ListedModel] = {}
        self.server: ServerType = UNKNOWN

    def _listed(self) -> Mapping[str, Listed]:
        models, is_ollama = self._driver.model_list()
        self.server = OLLAMA if is_ollama else UNKNOWN
        self.entries = {model.name: model for model in models}
        return {name: Listed(name=name, status="loaded") for name in self.entries}


class OpenAIModel(OpenAIServer):
    """One of the models of `host`, at the address of `server`."""

    def __init__(self, host: OpenAIHost, name: str, server: OpenAIServer) -> None:
        super().__init__(server.url, model=name, by_prompt=server.by_prompt, **server.options)
        self._host = host

    def probe(self, deadline: float, on_capabilities: OnCapabilities = ignore) -> Capabilities:
        self._host.look(FRESH)  # whoever probes may just have been refused
        entry = self._host.entries.get(self._wanted)
        if entry is None:
            raise BackendDown(f"the backend does not list the model {self._wanted}")
        return self._found(entry, self._host.server)

    def alive(self) -> bool:
        return self._host.up and self._wanted in self._host.entries
