"""Adapts a task to one backend: a finite length and a grammar it can parse, or a clear refusal.

Unexpected input crashes an old server, so every request to one is checked here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from msgspec.structs import replace

from .. import compiling
from ..backends.driver import Capabilities
from ..backends.pools import Backend
from ..backends.tokens import ROUGH, TokenCounter, check_ids, exact_tokens, most_tokens
from ..core.adapters import for_server
from ..core.request import CompletionRequest, describes_document, describes_tools, rewrites
from ..core.sampling import WINDOWS, left_out
from ..core.task import Task
from ..errors import BadRequest, InvalidParameter, Unsupported, UpstreamFault, UpstreamTimeout
from ..gbnf import NEW, OLD, GrammarLimits
from ..prompting import constraints
from ..prompting.constraints import BoundGrammar
from ..prompting.formats.base import CallFormat
from ..prompting.formats.generic import GENERIC
from ..prompting.profile.derive import AnswerSyntax
from ..prompting.stages.calls import special_marks
from ..prompting.stages.endings import Validator
from ..prompting.stages.reasoning import REASONING_TAGS
from ..runtime.cancel import Cancel

# The alternatives of tokens in an answer that is not streamed: all of them are in memory
# together, and encoded in one call.
#
# One takes some 600 bytes, from the backend's event to the JSON of the answer.
MOST_ALTERNATIVES = 30_000


def check_alternatives(request: CompletionRequest) -> None:
    """Raises InvalidParameter for a request with alternatives that asks for too many."""
    if request.max_tokens is None:
        return
    most = most_with_alternatives(request)
    if request.max_tokens > most:
        raise InvalidParameter(
            "max_tokens",
            f"allows {request.max_tokens} tokens with {request.logprobs} alternatives each: at most"
            f" {most} can be kept for an answer that is not streamed. Ask for fewer"
            " tokens or alternatives, or stream",
        )


def most_with_alternatives(request: CompletionRequest) -> int:
    """The tokens that each choice may have, with alternatives."""
    alternatives = (request.logprobs or 1) * request.choices
    return 1 << 62 if request.stream else max(1, MOST_ALTERNATIVES // alternatives)


UNKNOWN = AnswerSyntax()
UNBOUND = BoundGrammar("")
PATTERNS = ("pattern", "patternProperties")
DISARMED = (
    "control tokens in the messages or tools: broken by an invisible character (U+2060), because"
    " this model's backend renders the prompt"
)
RAM_AND_LORA = (
    "the whole prompt is evaluated: this model's backend keeps prompts in RAM and mixes those of"
    " different LoRA adapters. Start its llama-server with --cache-ram 0"
)
SURELY = 8  # bytes per token: a prompt with more for each token of the context is too long


def budget(
    task: Task, caps: Capabilities, n_ctx: int, counter: TokenCounter, cancel: Cancel | None = None
) -> int:
    """The maximum length of the answer in tokens: the requested one, or the rest of the context.
    Raises ContextExceeded for a prompt that the server would silently truncate."""
    max_tokens = task.max_tokens
    n_ctx = n_ctx or 4096
    length = task.request.max_length
    if length is not None and task.prompt:
        count = counter.count_prompt(task, cancel)
        if count >= length:
            raise BadRequest(
                f"max_length is {length} tokens for prompt and answer together, and the prompt has"
                f" {count}: raise it or send less history",
                param="max_length",
            )
        max_tokens = min(max_tokens or length, length - count)
    if not caps.truncates:
        return n_ctx if max_tokens is None else max_tokens
    bound = most_tokens(task)
    if max_tokens is None and bound * ROUGH <= n_ctx:
        return n_ctx - bound
    if max_tokens is not None and bound + max_tokens <= n_ctx:
        return max_tokens
    left = n_ctx - exact_tokens(task, n_ctx, counter, cancel)
    return left if max_tokens is None else min(max_tokens, left)


def adapt_to_backend(
    task: Task,
    backend: Backend,
    caps: Capabilities,
    cancel: Cancel | None = None,
    resumes: bool = False,
    *,
    key: str = "",
) -> Task:
    """The task as this backend can take it: with a finite length, a grammar it can parse, token
    ids of its model, and the name of the API key.

    `cancel` ends the counting of a long prompt and the compilation of a grammar. `resumes`: the
    prompt ends with a part of the answer, so the backend must continue it. Raises Unsupported,
    ContextExceeded, BadRequest, Cancelled."""
    if not task.prompt and task.suffix is None and not (caps.queues or task.backend_templates):
        raise Unsupported("this model's backend needs a prompt", param="prompt")
    if not resumes:
        task = in_mode(task, backend, caps)
    elif caps.native or backend.chat_mode == "native":  # it would begin a new answer
        raise Unsupported("this model's backend cannot continue an answer")
    request = task.request
    if task.described and task.call_format is not None:
        call_judges(request, cancel)
    if task.suffix is not None and not caps.infill:
        why = "infilling is not supported: this model has no infill tokens"
        raise Unsupported(why, param="suffix")
    if not isinstance(task.prompt, str):
        check_ids(backend.driver, task.prompt, caps, "prompt")
    sampling = dict(task.sampling)
    if "lora" in sampling and (lora := for_server(sampling.pop("lora"), caps.adapters)):
        sampling["lora"] = lora
    if "logit_bias" in sampling:
        biased = [token for token, _ in sampling["logit_bias"] if type(token) is int]
        check_ids(backend.driver, biased, caps, "logit_bias", harmless=True)
    n = task.max_tokens
    if n is None or caps.truncates or request.max_length is not None:
        n = budget(task, caps, backend.n_ctx, backend.counter, cancel)
    if request.logprobs:
        n = min(n, most_with_alternatives(request))
    bound = UNBOUND
    if not task.is_unconstrained:
        bound = _grammar(task, caps, cancel)
        if bound.text:
            sampling["grammar"] = bound.text
        if (bound.text or task.call_format is not None) and not caps.queues:
            _may_end(sampling)
    if caps.modern_sampling:
        for name in filter(sampling.__contains__, WINDOWS):
            if sampling[name] == -1:  # the whole context; newer servers reject -1
                sampling[name] = backend.n_ctx or -1
        if request.messages and not task.backend_templates:
            sampling["preserved_tokens"] = _preserved(task.syntax or UNKNOWN, task.call_format)
            if task.call_format is not None or task.thinks:
                # There may be a second run, so the first, cut short, must have reported what was
                # cached.
                sampling["timings_per_token"] = True
    return replace(
        task,
        max_tokens=n,
        sampling=sampling,
        schema_gaps=bound.schema_gaps,
        tool_gaps=bound.tool_gaps,
        key=key,
    )


def check_prompt_size(task: Task, pool: Sequence[Backend], cancel: Cancel) -> None:
    """Refuse a prompt that no backend of a pool could hold, before a slot is taken. Raises
    ContextExceeded, Cancelled.

    A server that refuses long prompts itself takes seconds for 10 000 messages, so it is spared
    those that are far too long. The backends of a pool serve one model. Its tokens are counted once
    for all of them, unless their dialects differ: PowerInfer's server reads template marks as plain
    text. The backends of a route may have different models. An infill is never too long: servers
    that support it keep the text around the cursor."""
    if task.backend_templates or task.suffix is not None:
        return
    bound, n_ctx, up = 0, 0, []
    for backend in pool:
        caps = backend.caps
        if backend.up and caps is not None:
            room = backend.n_ctx
            if len(task.prompt) < room // 4 or not room:
                return  # a character has at most four bytes
            bound = bound or most_tokens(task)
            if bound < (room if caps.truncates else SURELY * room):
                return
            up.append(backend)
            n_ctx = max(n_ctx, room)
    kinds = {(b.caps.dialect, b.place and b.caps.models) for b in up if b.caps is not None}
    if len(kinds) != 1:
        return
    try:
        exact_tokens(task, n_ctx, up[0].counter, cancel)
    except (UpstreamFault, UpstreamTimeout):
        return  # placing the task will meet the same fault, and try elsewhere


def _grammar(task: Task, caps: Capabilities, cancel: Cancel | None) -> BoundGrammar:
    """The grammar of the answer, the client's own or a compiled one; its text is "" for none."""
    own: str = task.sampling.get("grammar", "")
    if own:
        return BoundGrammar(own if caps.modern_sampling else _old_grammar(own, cancel))
    bound = constraint_of(task, caps)
    if bound is None:
        # A grammar may follow when the model begins a call.
        may_call = task.call_format is not None and not task.described
        return BoundGrammar("", tool_gaps=task.tool_gaps if may_call else ())
    try:
        return compiling.grammar(bound, limits(caps), cancel)
    except InvalidParameter as error:
        # An old server's limits are narrower; a newer one may accept it.
        raise Unsupported(str(error), param=error.param) from None


def _may_end(sampling: dict[str, Any]) -> None:
    """Make sure that the answer can end. An old server aborts when its grammar is complete and the
    end token is forbidden, because no token is left to choose. With tools, a grammar may come
    later, when a call begins. Raises Unsupported for ignore_eos; a bias of "never" becomes a large
    negative one."""
    if sampling.get("ignore_eos"):
        raise Unsupported(
            "ignore_eos cannot be combined with a grammar or tools on this model's backend",
            param="ignore_eos",
        )
    if sampling.get("logit_bias"):
        sampling["logit_bias"] = [
            [token, -1000 if bias is False else bias] for token, bias in sampling["logit_bias"]
        ]


@lru_cache(256)
def _preserved(syntax: AnswerSyntax, form: CallFormat | None) -> tuple[str, ...]:
    """The marks of reasoning, text and calls, which must appear as text even if they are special
    tokens."""
    tags = (
        tag
        for pair in (*(syntax.reasoning or REASONING_TAGS), syntax.content)
        for tag in pair
        if tag
    )
    if form is None and syntax.calls is not None and syntax.calls.reads_reasoning:
        form = syntax.calls
    marks = special_marks(form) if form is not None else ()
    return tuple(dict.fromkeys((*tags, *marks)))


def in_mode(task: Task, backend: Backend, caps: Capabilities) -> Task:
    """Decide whether slotproxy or the backend renders the prompt. Raises Unsupported for media that
    the backend does not accept.

    A required call is described in our generic format, because a backend that renders prompts does
    not enforce one, and so is what a backend of another API does not know."""
    native = caps.native or task.backend_templates
    differs = native or task.unknown_template or task.media or backend.verdict.differing
    if not differs and backend.chat_mode != "native":
        return task  # as most are
    request = task.request
    kinds: tuple[str, ...] = ()
    if not native and caps.chat and request.messages and backend.chat_mode != "completion":
        kinds = backend.verdict.server_kinds(request)
        better = backend.chat_mode == "native" or task.unknown_template or bool(task.media)
        native = better or bool(kinds)
    for kind in task.media:
        takes = caps.vision if kind == "image" else caps.audio
        if not (native and (takes or caps.native)):
            why = f"this model's backend does not accept {kind} input"
            if kind == "image":
                why += ": use a model that sees, or have one describe images (setting vision)"
            raise Unsupported(why, param="messages")
    if not native:
        return task
    if caps.native:
        described = rewrites(request, caps.by_prompt)
        tools = constraints.callable_tools(request)
        form = bool(tools) and describes_tools(request, caps.by_prompt)
    else:
        described = False
        form = task.call_format is not None and constraints.must_call(request)
    if caps.chat:  # others keep contents and control tokens apart
        request = task.guard.disarmed(request)
    return replace(
        task,
        backend_templates=True,
        call_format=GENERIC if form else None,
        kinds=kinds,
        described=described,
        request=request,
    )


def constraint_of(task: Task, caps: Capabilities) -> constraints.Constraint | None:
    """The constraint to compile to a grammar, for every server that takes one, also those that
    convert schemas themselves: they ignore some keywords, so they accept more than the client asked
    for.

    None for a backend without grammars, and for a chat with tools that llama-server renders. It
    parses calls itself and refuses a grammar beside tools, so it is given the schema, and the whole
    document is validated."""
    parses_calls = task.backend_templates and task.call_format is None
    if caps.native or (parses_calls and constraints.callable_tools(task.request)):
        return None
    return constraints.from_start(task.request, task.call_format)


def call_judges(
    request: CompletionRequest, cancel: Cancel | None = None
) -> Mapping[str, Validator]:
    """The validators for the arguments of each tool. Raises InvalidParameter, QueueFull,
    Cancelled."""
    try:
        return {
            tool.name: compiling.by_schema(
                constraints.JSON.encode(tool.parameters or constraints.NO_ARGUMENTS), cancel
            )
            for tool in constraints.callable_tools(request)
        }
    except InvalidParameter as error:
        raise InvalidParameter("tools", error.reason) from None


def limits(caps: Capabilities) -> GrammarLimits:
    return NEW if caps.modern_sampling else OLD


def validate_constraints(task: Task, cancel: Cancel | None = None) -> BoundGrammar:
    """Refuse constraints that no backend could enforce, before queueing. Returns the grammar of the
    answer, or of a call in it, for a new server. Raises InvalidParameter, QueueFull, Cancelled."""
    request = task.request
    form = task.call_format
    own = task.sampling.get("grammar")
    schema = constraints.document_schema(request)
    if own and (form is not None or schema is not None):
        what = "tools" if form is not None else "response_format"
        raise InvalidParameter("grammar", f"cannot be combined with {what}")
    if schema is not None:
        compiling.by_schema(constraints.JSON.encode(schema), cancel)
    bound = constraints.from_start(request, form)
    if bound is None and form is not None:
        bound = constraints.calls_of(request, form)
    return UNBOUND if bound is None else compiling.grammar(bound, NEW, cancel)


def warnings(
    task: Task, adapted: Task, caps: Capabilities, cancel: Cancel | None = None
) -> tuple[str, ...]:
    """Warnings about ignored parts of a request; `adapted` is its task for this backend. Raises
    QueueFull, Cancelled."""
    messages: list[str] = []
    request, sampling = task.request, task.sampling
    if sampling:
        if "seed" in sampling and not caps.honours_seed:
            messages.append("seed is ignored by this backend")
        if not caps.lacks.isdisjoint(sampling):
            messages += left_out(sampling, caps.lacks)
    if caps.ram_cache and "lora" in adapted.sampling:
        messages.append(RAM_AND_LORA)
    if adapted.backend_templates and adapted.request is not request:
        messages.append(DISARMED)
    report = request.report
    if adapted.described:
        messages += _described(adapted, caps)
    if report.progress and not caps.progress:
        messages.append("return_progress is ignored: this backend does not report progress")
    if not caps.modern_sampling:
        if report.timings:
            word = "timings_per_token is ignored: this backend reports timings only at the end"
            messages.append(word)
        if report.tokens:
            messages.append("return_tokens is ignored: this backend does not report token ids")
    if request.output.kind != "text":
        messages += _of_document(adapted, cancel)
    if adapted.tool_gaps:
        words = ", ".join(adapted.tool_gaps)
        messages.append(f"no grammar for {words} in the tools: not enforced")
    return tuple(messages)


def _of_document(task: Task, cancel: Cancel | None) -> Iterator[str]:
    gaps = task.schema_gaps
    schema = constraints.JSON.encode(constraints.document_schema(task.request))
    if compiling.by_schema(schema, cancel).unchecked:
        yield "a pattern in the schema is not regular and is not enforced"
        gaps = tuple(word for word in gaps if word not in PATTERNS)
    if gaps:
        words = ", ".join(gaps)
        yield f"no grammar for {words} in the schema: checked when the answer is complete"


def _described(task: Task, caps: Capabilities) -> list[str]:
    """Which parts of a request the backend does not know."""
    parts = ["tools"] if task.call_format is not None else []
    if describes_document(task.request, caps.by_prompt):
        parts.append("response_format")
    words = " and ".join(parts)
    if not words:
        return []
    return [
        f"{words}: not enforced by this backend ({caps.dialect}), so described in the prompt"
        " and checked when the answer is complete"
    ]


def check_grammar(text: str, cancel: Cancel | None = None) -> None:
    """Refuse a grammar that no server can parse. Raises BadRequest, QueueFull, Cancelled."""
    try:
        compiling.own_grammar(text, cancel=cancel)
    except InvalidParameter as error:
        raise BadRequest(error.reason, param="grammar") from None


def _old_grammar(text: str, cancel: Cancel | None) -> str:
    """The grammar in a form that an old server can parse: others crash it."""
    try:
        return compiling.own_grammar(text, OLD, cancel)
    except InvalidParameter as error:
        raise Unsupported(
            f"this grammar is not supported by this model's backend: {error.reason}",
            param="grammar",
        ) from None
