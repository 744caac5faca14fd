"""Generates the pages about model families from llama.cpp's chat templates, one for each.

What a family's templates take and what its models write is found as slotproxy finds it: by
rendering probes. Only what no template tells is written by hand, in ``FAMILIES``.

The templates are beside the built server ``llama-2026`` (see ``tools.servers``); those that
slotproxy ships are used where llama.cpp has none. ``python -m tools.model_families`` rewrites
docs/families; ``--check`` only checks that it is up to date (exit code 1 if not). Without the built
server, nothing is done.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.prompting.formats.base import ID
from proxy.prompting.formats.objects import write_calls
from proxy.prompting.prompt import Prompter, profile_of
from proxy.prompting.template import templates
from tools import chat_cases, servers
from tools.servers import ROOT

PAGES = ROOT / "docs" / "families"
SHIPPED = ROOT / "templates" / "chat"
OURS = " (slotproxy's)"
SAMPLE = (("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Bergen"}))
IDS = {"word": ("call_1", "call_2"), "nine": ("a1B2c3D4e", "f5G6h7I8j"), "index": ("0", "1")}
COLUMNS = ("System messages", "Reasoning", "Switches", "Calls", "Ends")

HEAD = """\
---
tags: [chat template, jinja template, tool calling, thinking, reasoning, which model]
---

# Model families

Do tools work with your model, and how do you turn its thinking off? Choose its family:

"""

TAIL = """
You need no flag for any of them: slotproxy takes the chat template from the server. When a server
comes up, slotproxy renders small conversations with the template and compares the texts. It learns
a model that is not listed in the same way. `slotproxy doctor` prints what is known of yours, and
so do `/v1/backends` and the models page. `python -m tools.model_families` wrote these pages from
the templates in llama.cpp's source. A template with the mark *slotproxy's* comes with slotproxy.

## The words of the tables

- **System messages**: *anywhere*; *first* (later ones join a neighbour); *none* (all of them join
  one). Clients need not care, nor about roles that must take turns.
- **Reasoning**: the tags around it. It becomes `reasoning_content`, or what the client's API has.
- **Switches**: *thinking on and off* is `"reasoning_effort": "none"`, or
  `"chat_template_kwargs": {"enable_thinking": false}`. An *effort* is a word for
  `reasoning_effort`; other words become the nearest of those that the template takes.
- **Calls**: whether there may be several in a turn. *Described*: the template knows no tools,
  so slotproxy describes them in the messages, and a grammar keeps the calls well-formed. Clients
  always get calls in the form of their API.
- **Ends**: the tokens that end an answer.
- **Server of 2023**: whether llama.cpp's server of November 2023 loads models of the family. If it
  does, all this holds there too: slotproxy renders the prompts and reads the answers itself, and
  takes the template from the [model file](../backends/llama-2023.md#chat-template).
"""


@dataclass(frozen=True)
class ModelFamily:
    """``templates`` are the first letters of file names of llama.cpp's templates, ``shipped`` the
    names of ours, ``notes`` what no template tells, ``old`` about a server of 2023."""

    name: str
    templates: tuple[str, ...] = ()
    shipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    old: str = "none of them loads."

    @property
    def file(self) -> str:
        return re.sub(r"\W+", "-", self.name.lower().replace("'s", "")) + ".md"


FAMILIES: Sequence[ModelFamily] = (
    ModelFamily(
        "Qwen",
        ("Qwen",),
        notes=(
            "Qwen3 and later think by default; Qwen2.5, Qwen3-Coder and the models named"
            " Instruct-2507 never do.",
            "For images, start the server with `--mmproj`.",
        ),
    ),
    ModelFamily(
        "Llama",
        ("meta-llama",),
        ("llama-2",),
        notes=("Several calls in one turn of a client's history become several turns.",),
        old="Llama 2, 3 and 3.x load; those from 3.1 on without the scaling of long contexts.",
    ),
    ModelFamily(
        "Mistral",
        ("mistralai", "Mistral", "unsloth-mistral"),
        ("mistral",),
        notes=(
            "Where ids of calls must have nine letters or digits, the prompt has such ids. Clients"
            " keep their own.",
            "Magistral thinks if the system message of its model card is sent.",
        ),
        old="Mistral 7B loads; Mixtral, Nemo and later models do not.",
    ),
    ModelFamily("Gemma", ("google",), notes=("For images, start the server with `--mmproj`.",)),
    ModelFamily(
        "gpt-oss",
        ("openai-gpt-oss",),
        notes=("It always reasons; with `none`, at its default effort, which is medium.",),
    ),
    ModelFamily("GLM", ("GLM",), ("glm-4",), notes=("GLM-4.5 and later think by default.",)),
    ModelFamily(
        "ChatGLM",
        (),
        ("chatglm3",),
        notes=(
            "slotproxy runs these models [itself](../backends/chatglm.md). The table is about a"
            " server that has ChatGLM3 as a GGUF file.",
        ),
    ),
    ModelFamily(
        "DeepSeek",
        ("deepseek-ai", "llama-cpp-deepseek"),
        ("deepseek",),
        notes=(
            "The R1 models and their distills always think.",
            "For tools on R1, start the server with `--jinja --chat-template-file` and"
            " `llama-cpp-deepseek-r1.jinja` of llama.cpp's `models/templates`.",
        ),
        old="The distills of Llama load, the others do not.",
    ),
    ModelFamily(
        "Kimi",
        ("Kimi", "moonshotai"),
        notes=("K2-Instruct does not think, K2-Thinking always does.",),
    ),
    ModelFamily("MiniMax", ("MiniMax",)),
    ModelFamily("Granite", ("ibm-granite",)),
    ModelFamily("Phi", ("microsoft",), ("phi-3",)),
    ModelFamily("LFM", ("LFM",), notes=("Calls are written in Python.",)),
    ModelFamily("Nemotron", ("NVIDIA",)),
    ModelFamily(
        "Cohere",
        ("Cohere",),
        ("command-r",),
        notes=(
            "The GGUF files of Command R have several templates, and the default one describes no"
            " tools. For tools, start the server with `--jinja --chat-template-file` and the"
            " template whose name ends with `tool_use`.",
        ),
    ),
    ModelFamily(
        "Hermes",
        ("NousResearch",),
        ("hermes",),
        notes=("For tools, take the template whose name ends with `tool_use`, as with Cohere.",),
        old="the models of Llama and of Mistral 7B load.",
    ),
    ModelFamily(
        "PowerInfer's models",
        (),
        ("turbosparse", "bamboo", "relullama", "relufalcon"),
        notes=("Most are base models with a plain text format.",),
        old="they need PowerInfer's server, which reads special tokens as plain text.",
    ),
)
OTHERS = ModelFamily("Others", old="only those of Llama's architecture load.")


def found() -> Path | None:
    """Return the folder of llama.cpp's templates, or None."""
    binary = servers.find("llama-2026")
    folder = binary.parent / chat_cases.TEMPLATES if binary is not None else None
    return folder if folder is not None and folder.is_dir() else None


def pages(folder: Path) -> dict[str, str]:
    """Return the pages by the names of their files, from the templates in this folder."""
    files = {path.stem: path for path in sorted(folder.glob("*.jinja"))}
    made: dict[str, str] = {}
    table = ["| Family | Tool calls | Thinking |", "|---|---|---|"]
    for family in (*FAMILIES, OTHERS):
        names = [name for name in files if name.startswith(family.templates) or family is OTHERS]
        named = {name: files.pop(name) for name in names}
        named |= {f"{name}{OURS}": SHIPPED / f"{name}.jinja" for name in family.shipped}
        prompters = {name: _prompter(name, path) for name, path in named.items()}
        made[family.file] = "\n".join(_page(family, prompters))
        table.append(f"| [{family.name}]({family.file}) | {_summary(prompters.values())} |")
    made["index.md"] = HEAD + "\n".join(table) + "\n" + TAIL
    return made


def _prompter(name: str, path: Path) -> Prompter:
    return Prompter(templates.compile(path.read_text("utf-8"), _compiled_as(name)))


def _page(family: ModelFamily, prompters: Mapping[str, Prompter]) -> Iterator[str]:
    yield f"---\ntags: [{family.name}, tool calling, thinking]\n---\n"
    yield f"# {family.name}"
    yield ""
    yield (
        "Do tools work, does the model think, and where may system messages stand?"
        " [The words of the table](index.md#the-words-of-the-tables)"
    )
    yield ""
    rows: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for name, prompter in prompters.items():
        rows.setdefault(_row(dict(profile_of(prompter))), []).append(name)
        samples.setdefault(_sample(prompter), []).append(name)
    yield f"| Template | {' | '.join(COLUMNS)} |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for row, names in rows.items():
        yield f"| {'<br>'.join(names)} | {row} |"
    yield ""
    for note in (*family.notes, f"Server of 2023: {family.old}"):
        yield f"- {note}"
    samples.pop("", None)
    if samples:
        yield "\n## Calls\n"
        yield "Two calls as the model writes them, or one where only one may be in a turn."
    for sample, names in samples.items():
        fence = "````" if "```" in sample else "```"
        yield f"\n{', '.join(names)}:\n\n{fence}text\n{sample}\n{fence}"
    yield ""


def _summary(prompters: Iterable[Prompter]) -> str:
    """Whether the templates of a family know tools and thinking, as two cells."""
    profiles = [dict(profile_of(prompter)) for prompter in prompters]
    described = [_calls(profile) == "described" for profile in profiles]
    calls = "described by slotproxy" if all(described) else "its own form"
    if any(described) and not all(described):
        calls += ", or described by slotproxy"
    thinks = [bool(profile.get("reasoning")) for profile in profiles]
    switches = dict.fromkeys(
        words for profile in profiles for words in profile.get("switches", "").split("; ") if words
    )
    some = "" if all(thinks) else "some of them"
    parts = [some, *switches] if any(thinks) else ["no"]
    return f"{calls} | {'; '.join(part for part in parts if part) or 'yes'}"


def _calls(lines: Mapping[str, str]) -> str:
    form, _, calls = lines["calls"].partition("; ")
    return calls or ("described" if form.startswith("JSON as") else form)


def _compiled_as(name: str) -> str:
    """The name to compile a template under: slotproxy knows more of the families that it ships."""
    return name.removesuffix(OURS) if name.endswith(OURS) else f"file {name}"


def _row(lines: Mapping[str, str]) -> str:
    fields = {**lines, "calls": _calls(lines)}
    for label in ("reasoning", "ends"):
        parts = fields.get(label, "").split(", ")
        fields[label] = ", ".join(_code(part) for part in parts if part)
    cells = (fields.get(column.lower(), "") for column in COLUMNS)
    return " | ".join(cell.replace("|", "\\|") for cell in cells)


def _code(text: str) -> str:
    """Code in a cell, where a bar would end it."""
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"


def _sample(prompter: Prompter) -> str:
    """A call, or two in one turn, as the model writes it; "" if it has no format of its own."""
    calls = prompter.syntax.calls
    if calls is None:
        return ""
    count = 1 if "one in a turn" in dict(profile_of(prompter))["calls"] else 2
    ids = iter(IDS[calls.shape.ids])
    text = write_calls(calls.shape, *SAMPLE[:count])
    return re.sub(ID, lambda _: next(ids), text).strip()


def main() -> int:
    folder = found()
    if folder is None:
        print("llama-2026 is not built: python -m tools.servers build llama-2026", file=sys.stderr)
        return 0
    made = pages(folder)
    if "--check" in sys.argv[1:]:
        return int(made != written())
    for name, text in made.items():
        (PAGES / name).write_text(text, "utf-8")
    return 0


def written() -> dict[str, str]:
    """Return the pages of the documentation by the names of their files."""
    return {path.name: path.read_text("utf-8") for path in PAGES.glob("*.md")}


if __name__ == "__main__":
    sys.exit(main())
