"""Codex and Claude Code, the real programs, use slotproxy with tools over several turns.

`make test-agents` installs them (640 MB) and runs these tests. They begin with 7 000 and 19 000
tokens, and no model that is small enough for a test calls tools sensibly behind so many, so the
server is scripted.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scripted_server import ScriptedServer
from tools import coding_agents, servers
from tools.processes import Gateway

from .conftest import StartGateway

pytestmark = pytest.mark.slow
TEMPLATE = ("--chat-template", str(servers.ROOT / "models" / "tinychat.jinja"))
COMMANDS = ("echo lantern > made.txt", "cat made.txt")
FIRST, SECOND = "Make a file", "What did the file say?"


def script(prompt: str) -> str:
    """Run COMMANDS by the tool of the agent, then tell what the last one printed."""
    turn = prompt.rpartition("<|im_start|>user")[2]
    if SECOND in turn:
        return "It said lantern."
    done = turn.count("<tool_response>")
    if done == len(COMMANDS):
        return "Done: lantern" if "lantern" in turn.rpartition("<tool_response>")[2] else "Failed"
    arguments = {"cmd": COMMANDS[done]}
    name = "exec_command"
    if '"name": "Bash"' in prompt:
        name, arguments = "Bash", {"command": COMMANDS[done], "description": "a step"}
    call = json.dumps({"name": name, "arguments": arguments})
    return f"I will.\n<tool_call>\n{call}\n</tool_call>"


class Agent:
    """A coding agent in a folder of its own, without the settings of this user."""

    def __init__(self, folder: Path, program: str, **variables: str) -> None:
        path = coding_agents.find(program)
        if path is None:
            pytest.skip("make test-agents runs it")
        self.folder = folder / "work"
        self.folder.mkdir()
        system = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
        self._program, self._env = str(path), {**system, **variables}

    def run(self, *words: str) -> str:
        """The last answer of the agent."""
        done = subprocess.run(
            [self._program, *words],
            cwd=self.folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "retry" not in done.stderr.lower(), done.stderr
        return done.stdout.strip()


class Codex(Agent):
    def __init__(self, folder: Path, one: Gateway, *, websocket: bool) -> None:
        home = folder / "codex"
        home.mkdir()
        (home / "config.toml").write_text(
            f"""
model = "any"
model_provider = "slotproxy"
[model_providers.slotproxy]
name = "slotproxy"
base_url = "{one.url}/v1"
wire_api = "responses"
supports_websockets = {json.dumps(websocket)}
"""
        )
        super().__init__(folder, "codex", CODEX_HOME=str(home))

    def ask(self, text: str) -> str:
        return self.run("exec", *self.FLAGS, text)

    def ask_again(self, text: str) -> str:
        return self.run("exec", "resume", "--last", *self.FLAGS, text)

    FLAGS = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")


class ClaudeCode(Agent):
    def __init__(self, folder: Path, one: Gateway) -> None:
        super().__init__(
            folder,
            "claude",
            ANTHROPIC_BASE_URL=one.url,
            ANTHROPIC_AUTH_TOKEN="any",
            CLAUDE_CONFIG_DIR=str(folder / "claude"),
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        )

    def ask(self, text: str) -> str:
        return self.run("--print", text, *self.FLAGS)

    def ask_again(self, text: str) -> str:
        return self.run("--print", text, "--continue", *self.FLAGS)

    FLAGS = ("--model", "any", "--allowedTools", "Bash")


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    server = ScriptedServer(script)
    yield server
    server.close()


def check_turns(agent: Codex | ClaudeCode) -> None:
    assert agent.ask(FIRST) == "Done: lantern"
    assert (agent.folder / "made.txt").read_text() == "lantern\n"
    assert agent.ask_again(SECOND) == "It said lantern."


def requests(one: Gateway, path: str) -> list[dict[str, Any]]:
    """The log lines of the requests to this route."""
    lines = [json.loads(line) for line in one.log.splitlines() if line.startswith('{"id"')]
    return [line for line in lines if line["path"] == path]


@pytest.mark.parametrize("websocket", [False, True], ids=["http", "websocket"])
def test_codex_calls_tools_over_several_turns(
    scripted: ScriptedServer, gateway: StartGateway, tmp_path: Path, websocket: bool
) -> None:
    one = gateway("--llama-api", scripted.url, *TEMPLATE)
    check_turns(Codex(tmp_path, one, websocket=websocket))
    # A WebSocket has a line of its own, and one for each answer.
    statuses = {line["status"] for line in requests(one, "/v1/responses")}
    assert statuses == ({200, 101} if websocket else {200})


def test_claude_code_calls_tools_over_several_turns(
    scripted: ScriptedServer, gateway: StartGateway, tmp_path: Path
) -> None:
    one = gateway("--llama-api", scripted.url, *TEMPLATE)
    check_turns(ClaudeCode(tmp_path, one))
    assert {line["status"] for line in requests(one, "/v1/messages")} == {200}
