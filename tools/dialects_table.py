"""Updates the table of APIs, features and clients from the results of their tests.

``python -m tools.dialects_table`` runs the tests of the official clients on real backends and
writes the results between the two markers of docs/compatibility.md (``--print``: only to the
terminal). Each row is a test function, each column a kind of backend: yes if the test passes, –
with the reason as a note if it is skipped because the backend lacks the feature, NO if it fails.
Columns of backends that are not on this machine stay unchanged, and that of PowerInfer's server
says when it was run. The clients that are programs of their own must be installed (``python -m
tools.coding_agents``, ``python -m tools.open_responses fetch``).
"""

from __future__ import annotations

import datetime
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from tools import servers
from tools.dated import headings, without_day

BEGIN, END = "<!-- dialects -->", "<!-- /dialects -->"
PAGE = servers.ROOT / "docs" / "compatibility.md"
FILES = (
    "tests/integration/test_dialects_clients.py",
    "tests/integration/test_dialects_tools.py",
    "tests/integration/test_dialects_vectors.py",
    "tests/integration/test_mcp_responses.py",
    "tests/integration/test_open_responses.py",
    "tests/integration/test_coding_agents.py",
)
COLUMNS = {
    "llama-2023": "`server` of 2023",
    "powerinfer": "PowerInfer's `server`",
    "llama-2026": "`llama-server` of 2026",
    "chatglm_cpp": "chatglm_cpp",
    "llama-2026-v1": "`llama-server` by `/v1`",
    "llama-cpp-python": "llama-cpp-python's server",
    "slotproxy": "a second slotproxy",
}
YES, NO, CANNOT = "yes", "NO", "–"
ABSENT = {
    "chatglm_cpp": "chatglm_cpp makes no embeddings: a backend for them can be named beside it"
}
NOT_RUN = "not run on this kind of backend"
# Test function to API, feature and client.
ROWS: Mapping[str, tuple[str, str, str]] = {
    "test_anthropic_whole_and_streamed": ("Anthropic", "whole and streamed", "anthropic"),
    "test_anthropic_stop_sequence": ("Anthropic", "stop sequences", "anthropic"),
    "test_anthropic_tools": ("Anthropic", "tools, there and back", "anthropic"),
    "test_anthropic_tool_is_called": ("Anthropic", "a named call (by grammar)", "anthropic"),
    "test_anthropic_counts_and_errors": ("Anthropic", "count_tokens, errors", "anthropic"),
    "test_anthropic_accepts_every_tool_choice": ("Anthropic", "tool_choice", "anthropic"),
    "test_anthropic_unusual_but_legal": ("Anthropic", "what agents send besides", "anthropic"),
    "test_anthropic_clears_old_tool_results": ("Anthropic", "context edits", "anthropic"),
    "test_anthropic_lists_models": ("Anthropic", "models", "anthropic"),
    "test_claude_code_calls_tools_over_several_turns": (
        "Anthropic",
        "tools over turns",
        "Claude Code",
    ),
    "test_anthropic_asynchronous": ("Anthropic", "asynchronous", "anthropic"),
    "test_anthropic_client_gets_calls_and_results": ("Anthropic", "MCP servers", "anthropic"),
    "test_ollama_chat": ("Ollama", "/api/chat", "ollama"),
    "test_ollama_generate": ("Ollama", "/api/generate, raw and not", "ollama"),
    "test_ollama_tools": ("Ollama", "tools, there and back", "ollama"),
    "test_ollama_schema_and_tools": ("Ollama", "format as schema (by grammar)", "ollama"),
    "test_ollama_model_routes": ("Ollama", "tags, ps, show, errors", "ollama"),
    "test_open_webui_works": ("Ollama, OpenAI", "three connections", "Open WebUI"),
    "test_ollama_asynchronous": ("Ollama", "asynchronous", "ollama"),
    "test_responses_whole_streamed_and_kept": ("Responses", "whole, streamed, kept", "openai"),
    "test_responses_continue_one_another": ("Responses", "previous_response_id", "openai"),
    "test_responses_refer_to_stored_items": ("Responses", "item_reference", "openai"),
    "test_unsupported_responses_features_are_reported": ("Responses", "errors", "openai"),
    "test_responses_tools": ("Responses", "tools, there and back", "openai"),
    "test_responses_tools_round": ("Responses", "a named call (by grammar)", "openai"),
    "test_responses_parse_into_a_model": ("Responses", "text.format (by grammar)", "openai"),
    "test_responses_in_the_background": ("Responses", "background, cancel", "openai"),
    "test_approved_call_is_made_and_the_model_continues": (
        "Responses",
        "MCP servers, approval",
        "openai",
    ),
    "test_open_responses_suite_passes": ("Responses", "public suite", "Open Responses"),
    "test_open_responses_suite_sends_an_image": (
        "Responses",
        "public suite, an image",
        "Open Responses",
    ),
    "test_codex_works": ("Responses", "what Codex sends", "openai"),
    "test_codex_calls_tools_over_several_turns": ("Responses", "tools over turns", "Codex"),
    "test_responses_asynchronous": ("Responses", "asynchronous", "openai"),
    "test_openai_tools": ("OpenAI", "tools, there and back", "openai"),
    "test_allowed_tools_limit_the_choice": ("OpenAI", "allowed_tools", "openai"),
    "test_openai_batch": ("OpenAI", "batches", "openai"),
    "test_editors_warm_up": ("OpenAI", "editors' warm-ups", "llama.vim, llama.vscode"),
    "test_editors_edit_with_the_chat": ("OpenAI", "editors' chats", "llama.vim, llama.vscode"),
    "test_glm_chat_and_stream_in_chinese": ("GLM HTTP", "/chat, /chat-stream", "requests"),
    "test_glm_history_tokens_and_langchain": ("GLM HTTP", "history, /tokenize, /", "requests"),
    "test_llama_cpp_completion": ("llama.cpp", "/completion", "requests"),
    "test_llama_cpp_other_routes": ("llama.cpp", "props, slots, templates", "requests"),
    "test_openai_client_embeds_one_and_many_texts": (
        "Embeddings",
        "texts, tokens, base64",
        "openai",
    ),
    "test_embeddings_are_right_under_load": ("Embeddings", "under load", "openai"),
    "test_fewer_dimensions_shorten_vectors": (
        "Embeddings",
        "dimensions",
        "openai",
    ),
    "test_ollama_and_glm_embeddings": ("Embeddings", "/api/embed, /embedding", "ollama, requests"),
}


def results(xml: str) -> dict[str, dict[str, str]]:
    """Parse a JUnit XML report: function to column to result."""
    outcomes: dict[str, dict[str, str]] = {}
    for case in ElementTree.fromstring(xml).iter("testcase"):
        name, _, rest = case.attrib["name"].partition("[")
        column = max((key for key in COLUMNS if rest.startswith(key)), key=len, default="")
        if name in ROWS and column:
            kinds = {child.tag for child in case}
            failed = bool(kinds & {"failure", "error"})
            why = next((child.attrib.get("message", "") for child in case), "")
            result = NO if failed else f"{CANNOT} {why}" if "skipped" in kinds else YES
            row = outcomes.setdefault(name, {})
            if row.get(column) != NO:  # keep the worst of several cases
                row[column] = result
    return outcomes


def written(text: str) -> dict[str, dict[str, str]]:
    """Parse the current table, in the form of `results`."""
    lines = _lines(text)
    rows = _rows(lines)
    notes = dict(line.split(". ", 1) for line in lines if line[:1].isdigit())
    names = {row: name for name, row in ROWS.items()}
    columns = {title: column for column, title in COLUMNS.items()}
    outcomes: dict[str, dict[str, str]] = {}
    for row in rows[1:]:
        name = names.get((row[0], row[1], row[2]))
        for title, cell in zip(rows[0][3:], row[3:], strict=False):
            result, _, number = cell.partition(" ")
            if name and without_day(title) in columns:
                why = notes.get(number.strip("()"), "")
                cells = outcomes.setdefault(name, {})
                cells[columns[without_day(title)]] = f"{result} {why}".strip()
    return outcomes


def _lines(text: str) -> list[str]:
    return text.partition(BEGIN)[2].partition(END)[0].strip().splitlines()


def _rows(lines: Iterable[str]) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|") and not line.startswith("|---")
    ]


def merged(
    outcomes: Mapping[str, Mapping[str, str]], before: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """Return the results; columns without any test that ran keep their old values."""
    ran = _ran(outcomes)
    stay = set(COLUMNS) - ran
    return {
        name: {
            **{column: cell for column, cell in outcomes.get(name, {}).items() if column in ran},
            **{column: cell for column, cell in before.get(name, {}).items() if column in stay},
        }
        for name in ROWS
    }


def _ran(rows: Mapping[str, Mapping[str, str]]) -> set[str]:
    return {column for row in rows.values() for column, cell in row.items() if cell in (YES, NO)}


def titles(
    outcomes: Mapping[str, Mapping[str, str]], text: str, today: datetime.date
) -> Sequence[str]:
    """The headings of the columns, after a run with these results."""
    before = [cell for row in _rows(_lines(text))[:1] for cell in row]
    dated = [COLUMNS[name] for name in _ran(outcomes) & servers.GIVEN.keys()]
    return headings(COLUMNS.values(), before, dated, today)


def markdown(
    outcomes: Mapping[str, Mapping[str, str]], titles: Iterable[str] = COLUMNS.values()
) -> str:
    lines = [
        "| API | feature | client | " + " | ".join(titles) + " |",
        "|---" * (3 + len(COLUMNS)) + "|",
    ]
    notes: list[str] = []
    for name, row in ROWS.items():
        cells = [
            outcomes.get(name, {}).get(column, f"{CANNOT} {ABSENT.get(column, NOT_RUN)}")
            for column in COLUMNS
        ]
        lines.append("| " + " | ".join((*row, *(_cell(cell, notes) for cell in cells))) + " |")
    return "\n".join((*lines, "", *(f"{i}. {note}" for i, note in enumerate(notes, 1))))


def _cell(cell: str, notes: list[str]) -> str:
    """Return the text of a cell; a reason becomes a note, numbered from 1."""
    result, _, why = cell.partition(" ")
    if not why:
        return result
    if why not in notes:
        notes.append(why)
    return f"{result} ({notes.index(why) + 1})"


def main(argv: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *FILES]
        code = subprocess.run(command, cwd=servers.ROOT, check=False).returncode
        if not report.exists():
            return code
        text = PAGE.read_text(encoding="utf-8")
        outcomes = results(report.read_text("utf-8"))
        names = titles(outcomes, text, datetime.date.today())
        table = markdown(merged(outcomes, written(text)), names)
    if "--print" in argv:
        print(table)
        return code
    head, begun, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    if not begun or END not in rest:
        print(f"{PAGE.name} lacks {BEGIN} and {END}", file=sys.stderr)
        return 2
    PAGE.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
