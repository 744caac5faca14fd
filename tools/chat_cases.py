"""llama.cpp's chat templates, and the cases of its own test of chat parsers, as data.

``tests/test-chat.cpp`` states what a model writes with a template, and the message that it means.
The cases are C++ calls of a builder, so the test program itself prints them: :func:`patch` makes
the builder's ``run()`` print the case instead of testing it, and :func:`write` runs the program.

A case is a JSON object: ``template`` (a path that ends with a file name in ``chat-templates``),
``messages``, ``tools``, ``tool_choice`` (0 auto, 1 required, 2 none), ``json_schema`` (text),
``parallel``, ``thinking``, ``reasoning_format`` (0 none), ``prompt`` (with the generation prompt)
and ``generation_prompt`` as llama.cpp renders them, ``continues`` (not 0: the last message is the
beginning of the answer), ``input`` (the model's text), ``partial`` (the text is cut), and the
message that it means: ``content``, ``reasoning`` and ``calls``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tools.building import BuildError

VERSION = "1"  # increase when the cases change their form
TARGET = "test-chat"
CASES = "chat-cases.jsonl"
TEMPLATES = "chat-templates"
_VARIABLE = "CHAT_CASES"
_RUN = "test_peg_parser(tester_.tmpls_.get(), [this](peg_test_case & t) { t = tc_; }"
_PRINT = """
        if (const char * path = std::getenv("CHAT_CASES")) {
            auto params = tc_.params;
            if (params.messages.empty()) { params.messages = { message_user }; }
            auto made = common_chat_templates_apply(tester_.tmpls_.get(), params);
            json out;
            out["template"] = tester_.template_path();
            out["messages"] = common_chat_msgs_to_json_oaicompat(params.messages);
            out["tools"] = common_chat_tools_to_json_oaicompat(params.tools);
            out["tool_choice"] = (int) params.tool_choice;
            out["json_schema"] = params.json_schema;
            out["parallel"] = params.parallel_tool_calls;
            out["thinking"] = params.enable_thinking;
            out["reasoning_format"] = (int) params.reasoning_format;
            out["continues"] = (int) params.continue_final_message;
            out["add_generation_prompt"] = params.add_generation_prompt;
            out["prompt"] = made.prompt;
            out["generation_prompt"] = made.generation_prompt;
            out["input"] = tc_.input;
            out["partial"] = tc_.is_partial;
            out["content"] = tc_.expect.content;
            out["reasoning"] = tc_.expect.reasoning_content;
            std::vector<std::string> calls;
            for (const auto & call : tc_.expect.tool_calls) {
                json one;
                one["name"] = call.name;
                one["arguments"] = call.arguments;
                one["id"] = call.id;
                calls.push_back(one.dump());
            }
            std::string joined = "[";
            for (size_t i = 0; i < calls.size(); i++) { joined += (i ? "," : "") + calls[i]; }
            out["calls"] = json::parse(joined + "]");
            std::ofstream(path, std::ios::app) << out.dump() << "\\n";
            return;
        }
        """


def patch(source: Path) -> None:
    """Let llama.cpp's test print its cases. Raises BuildError if the test has another form."""
    path = source / "tests" / "test-chat.cpp"
    text = path.read_text("utf-8")
    if text.count(_RUN) != 1:
        raise BuildError(f"{path.name} has no run() of the known form")
    path.write_text(text.replace(_RUN, _PRINT + _RUN), "utf-8")


def write(source: Path, tree: Path, folder: Path, log: Path) -> None:
    """Write the templates and the cases to ``folder``. Raises BuildError."""
    shutil.copytree(source / "models" / "templates", folder / TEMPLATES)
    (program,) = [path for path in tree.rglob(TARGET) if path.is_file()]
    cases = folder / CASES
    with log.open("a") as output:
        subprocess.run(
            [program],
            cwd=source,
            env={**os.environ, _VARIABLE: str(cases)},
            stdout=output,
            stderr=output,
            check=False,
        )
    if not cases.is_file():
        raise BuildError(f"{TARGET} printed no cases; the log is {log}")


def read(folder: Path) -> list[dict[str, Any]]:
    """The cases in the folder of a built server."""
    lines = (folder / CASES).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]
