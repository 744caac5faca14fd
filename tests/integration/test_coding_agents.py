"""Codex and Claude Code, the real programs, use slotproxy with tools over several turns.

`make test-agents` installs them (640 MB) and runs these tests. No model that is small enough for a
test calls tools sensibly, so a script writes the answers: behind a real server of each kind, whose
model a grammar forces to write them, and behind a scripted server. They begin with 7 000 and 19 000
tokens, for which the small model takes minutes: for the real servers, settings of the agents
shorten their prompts. They are set up by the texts of the page "Connect".
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.web.pages import connect
from tests.fakes import wait_until
from tests.forced_server import ForcedServer
from tests.scripted_server import ScriptedServer
from tools import coding_agents, servers
from tools.processes import Gateway

from .conftest import StartGateway, StartServer
from .generations import GENERATIONS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
TEMPLATE = ("--chat-template", str(servers.ROOT / "models" / "tinychat.jinja"))
COMMANDS = ("echo lantern > made.txt", "cat made.txt")
SCRIPTED, CHATGLM = "scripted", "chatglm_cpp"
BRIEF = "You run commands for the user."  # instead of instructions of thousands of tokens
CONTEXT = 16384
FIRST, SECOND = "Make a file", "What did the file say?"


def script(prompt: str) -> str:
    """Run COMMANDS by the tool of the agent, then repeat the output of the last one."""
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


def pasted(name: str, gateway: Gateway) -> list[str]:
    """The texts of a program on the page "Connect"."""
    (program,) = (each for each in connect.programs() if each.id == name)
    values = {"address": gateway.url, "key": "any", "model": "any", **connect.sizes(CONTEXT)}
    return [connect.filled(part.text, values) for part in program.part]


class Agent:
    """A coding agent in a folder of its own, without the settings of this user. `text` is what
    a reader pastes into a shell; its last line starts the program."""

    def __init__(self, folder: Path, program: str, text: str, **variables: str) -> None:
        path = coding_agents.find(program)
        if path is None:
            pytest.skip("make test-agents runs it")
        self.folder = folder / "work"
        self.folder.mkdir()
        assert text.splitlines()[-1] == program
        self._script = f'{text.rstrip()} "$@"'
        system = {"PATH": f"{path.parent}:/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
        self._env = {**system, **variables}

    def run(self, *words: str) -> str:
        """The last answer of the agent."""
        done = subprocess.run(
            ["bash", "-c", self._script, "bash", *words],
            cwd=self.folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "retry" not in done.stderr.lower(), done.stderr
        return done.stdout.strip()


class Codex(Agent):
    def __init__(self, folder: Path, gateway: Gateway, *, websocket: bool, brief: bool) -> None:
        config, shell = pasted("codex", gateway)
        home = folder / ".codex"
        home.mkdir()
        (home / "brief.md").write_text(BRIEF)
        instructions = f'model_instructions_file = "{home / "brief.md"}"\n' if brief else ""
        # The text ends with the table of the provider.
        more = f"supports_websockets = {json.dumps(websocket)}\n"
        (home / "config.toml").write_text(f"{instructions}{config}{more}")
        super().__init__(folder, "codex", shell)

    def ask(self, text: str) -> str:
        return self.run("exec", *self.FLAGS, text)

    def ask_again(self, text: str) -> str:
        return self.run("exec", "resume", "--last", *self.FLAGS, text)

    FLAGS = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")


class ClaudeCode(Agent):
    def __init__(self, folder: Path, gateway: Gateway, *, brief: bool) -> None:
        self._brief = ("--system-prompt", BRIEF, "--tools", "Bash") if brief else ()
        (shell,) = pasted("claude-code", gateway)
        super().__init__(
            folder,
            "claude",
            shell,
            CLAUDE_CONFIG_DIR=str(folder / "claude"),
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        )

    def ask(self, text: str) -> str:
        return self.run("--print", text, *self.FLAGS, *self._brief)

    def ask_again(self, text: str) -> str:
        return self.run("--print", text, "--continue", *self.FLAGS, *self._brief)

    FLAGS = ("--allowedTools", "Bash")


@pytest.fixture(params=[SCRIPTED, *GENERATIONS, CHATGLM])
def address(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[str]:
    """A server that answers by the script."""
    if request.param == CHATGLM:
        pytest.skip("no grammar can make the small model call tools there")
    server: ScriptedServer | ForcedServer
    if request.param == SCRIPTED:
        server = ScriptedServer(script)
    else:
        start: StartServer = request.getfixturevalue("start_server")
        # llama-server of 2026 gives a slot no more than the model was trained for.
        longer = ("--override-kv", f"llama.context_length=int:{CONTEXT}")
        extra = longer if request.param == "llama-2026" else ()
        real = start(request.param, slots=1, ctx=CONTEXT, model=tiny_model, extra=extra)
        server = ForcedServer(real.url, script)
    try:
        yield server.url
    finally:
        server.close()


@pytest.fixture
def brief(request: pytest.FixtureRequest) -> bool:
    return bool(request.node.callspec.params["address"] != SCRIPTED)


def check_turns(agent: Codex | ClaudeCode) -> None:
    assert agent.ask(FIRST) == "Done: lantern"
    assert (agent.folder / "made.txt").read_text() == "lantern\n"
    assert agent.ask_again(SECOND) == "It said lantern."


def check_statuses(gateway: Gateway, path: str, statuses: set[int]) -> None:
    """Whether the requests to this route have these, by the log, where the last come late."""

    def seen() -> set[int]:
        whole = gateway.log.rpartition("\n")[0].splitlines()
        lines = [json.loads(line) for line in whole if line.startswith('{"id"')]
        return {line["status"] for line in lines if line["path"] == path}

    wait_until(lambda: seen() >= statuses)
    assert seen() == statuses


@pytest.mark.parametrize("websocket", [False, True], ids=["http", "websocket"])
def test_codex_calls_tools_over_several_turns(
    address: str, brief: bool, gateway: StartGateway, tmp_path: Path, websocket: bool
) -> None:
    running = gateway("--llama-api", address, *TEMPLATE)
    check_turns(Codex(tmp_path, running, websocket=websocket, brief=brief))
    # A WebSocket has a line of its own, and one for each answer.
    check_statuses(running, "/v1/responses", {200, 101} if websocket else {200})


def test_claude_code_calls_tools_over_several_turns(
    address: str, brief: bool, gateway: StartGateway, tmp_path: Path
) -> None:
    running = gateway("--llama-api", address, *TEMPLATE)
    check_turns(ClaudeCode(tmp_path, running, brief=brief))
    check_statuses(running, "/v1/messages", {200})
