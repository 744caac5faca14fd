"""`slotproxy chat`, `ps` and `top` with a real gateway, in a real terminal where one is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.terminal import Terminal
from tools.processes import Gateway, ModelServer, free_port
from tools.servers import ROOT

TEMPLATE = ("--chat-template", str(ROOT / "models" / "tinychat.jinja"))
KEY = "sk-terminal-0123456789"


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ModelServer], tiny_model: Path) -> Iterator[ModelServer]:
    model_server = start_server("llama-2023", model=tiny_model, slots=2, ctx=4096)
    yield model_server
    model_server.kill()


@pytest.fixture
def running(module_gateway: Callable[..., Gateway], server: ModelServer) -> Gateway:
    return module_gateway("--llama-api", server.url, "--alias", "tiny", "--slots", "2", *TEMPLATE)


def _command(gateway: Gateway, *words: str) -> list[str]:
    return [sys.executable, "-m", "proxy", words[0], "--url", gateway.url, *words[1:]]


def _run(
    gateway: Gateway, *words: str, text: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    """The command, with its input from a pipe."""
    return subprocess.run(
        _command(gateway, *words),
        input=text,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("chat", "tiny", "Repeat: fox 173"), ""),
        (("chat", "Repeat: fox 173"), ""),  # no model has a space in its name
        (("chat",), "Repeat: fox 173"),
        (("chat", "tiny"), "Repeat: fox 173"),
    ],
)
def test_one_question_gets_its_answer_alone(
    running: Gateway, words: tuple[str, ...], text: str
) -> None:
    done = _run(running, *words, text=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fox 173\n", "")


def test_one_word_that_no_model_has_as_its_name_is_the_question(running: Gateway) -> None:
    done = _run(running, "chat", "hello")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout
    assert "there is no question" in _run(running, "chat", "tiny").stderr


def test_address_needs_no_scheme(running: Gateway) -> None:
    done = _run(running, "ps", "--url", running.url.removeprefix("http://"))
    assert (done.returncode, done.stderr) == (0, "") and "tiny" in done.stdout


def test_empty_question_is_refused(running: Gateway) -> None:
    done = _run(running, "chat", text=" \n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no question" in done.stderr


def test_error_of_the_gateway_is_one_line(running: Gateway) -> None:
    done = _run(running, "chat", "tiny", "long " * 5000)
    assert done.returncode == 1
    assert done.stderr.startswith("slotproxy: ") and "context" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="shells of Windows have no such pipes")
@pytest.mark.parametrize("command", ["ps", "doctor"])
def test_reader_may_stop_early(running: Gateway, tmp_path: Path, command: str) -> None:
    more = ["--llama-api", running.url, "--data", str(tmp_path)] if command == "doctor" else []
    words = (
        _command(running, command) if command == "ps" else [sys.executable, "-m", "proxy", command]
    )
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [*words, *more], stdout=closed, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_ps_shows_models_slots_and_context(running: Gateway) -> None:
    done = _run(running, "ps")
    heading, row = done.stdout.splitlines()
    assert heading.split()[:4] == ["MODEL", "STATE", "SLOTS", "CONTEXT"]
    assert row.split()[:4] == ["tinychat-llama", "up", "0/2", "2048"]


def test_missing_gateway_has_a_remedy() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "proxy", "ps", "--url", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"slotproxy: no gateway answers at {url} (Connection refused): start it with slotproxy, or"
        " name its address with --url\n"
    )


def test_model_server_is_not_taken_for_a_gateway(server: ModelServer) -> None:
    command = [sys.executable, "-m", "proxy", "ps", "--url", server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert server.url in done.stderr and "Traceback" not in done.stderr


def test_key_comes_from_a_file_or_the_environment(
    module_gateway: Callable[..., Gateway], server: ModelServer, tmp_path: Path
) -> None:
    gateway = module_gateway("--llama-api", server.url, "--api-key", KEY, *TEMPLATE)
    done = _run(gateway, "ps")
    assert done.returncode == 1 and "--key-file FILE" in done.stderr
    assert _run(gateway, "ps", SLOTPROXY_API_KEY=KEY).returncode == 0
    file = tmp_path / "key"
    file.write_text(f"me {KEY}\n")
    assert _run(gateway, "ps", "--key-file", str(file)).returncode == 0
    file.unlink()
    done = _run(gateway, "ps", "--key-file", str(file))
    assert done.returncode == 2 and "--key-file" in done.stderr


def test_address_is_that_of_the_settings_file(running: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "slotproxy.toml"
    file.write_text(f"port = {running.url.rpartition(':')[2]}\n")
    command = [sys.executable, "-m", "proxy", "ps", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "tiny" in done.stdout


def test_conversation_in_a_terminal(running: Gateway, tmp_path: Path) -> None:
    saved = tmp_path / "talk.md"
    with Terminal(_command(running, "chat")) as terminal:
        terminal.until("tiny at ")
        terminal.until(">>> ")
        terminal.press("Repeat: fox 173\r")
        terminal.until("Repeat: fox 173\r\n")
        assert "fox 173" in terminal.until(">>> ")
        terminal.press("/model\r")
        terminal.until("* tiny")
        terminal.press("/modell\r")
        terminal.until("/help lists the commands")
        terminal.press("Repeat: \\\r")
        terminal.until("... ")
        terminal.press("hat 5\r")
        terminal.until(">>> ")
        terminal.press(f"/save {saved}\r")
        terminal.until("wrote ")
        terminal.press("\x1b[200~Repeat: one\nand two\x1b[201~\r")  # pasted
        terminal.until(">>> ")
        terminal.until(">>> ")
        terminal.press("/clear\r/system Answer in one word.\r/system\r")
        terminal.until("/system\r\n")
        terminal.until("Answer in one word.")
        terminal.until(">>> ")
        terminal.press("\x04")
        assert terminal.ended() == 0
    text = saved.read_text("utf-8")
    assert text.startswith("# tiny\n\n## User\n\nRepeat: fox 173\n\n## Assistant\n\nfox 173\n")
    assert "\n## User\n\nRepeat: \nhat 5\n" in text


def test_ctrl_c_cancels_the_answer_and_pressed_again_leaves(
    gateway: Callable[..., Gateway], slow_model: str
) -> None:
    slow = gateway("--llama-api", slow_model, "--chat-template", "legacy")
    with Terminal(_command(slow, "chat")) as terminal:
        terminal.until(">>> ")
        terminal.press("Tell me a long story\r")
        terminal.until("story\r\n")
        _busy(slow, 1)
        terminal.press("\x03")
        terminal.until("Ctrl-C again leaves")
        _busy(slow, 0)
        terminal.until(">>> ")
        terminal.press("\x03")
        assert terminal.ended() == 0


def _busy(gateway: Gateway, count: int) -> None:
    """Wait until so many requests run."""
    for _ in range(100):
        rows = _run(gateway, "ps").stdout.splitlines()[1:]
        if sum(int(row.split()[2].split("/")[0]) for row in rows) == count:
            return
    pytest.fail(f"not {count} requests: {rows}")


def test_top_draws_the_state_and_q_leaves(running: Gateway) -> None:
    with Terminal(_command(running, "top")) as terminal:
        terminal.until("\x1b[?1049h")
        drawn = terminal.until("empty")
        assert "requests in flight" in drawn and "last minute: " in drawn and "tiny" in drawn
        terminal.until("requests in flight")  # drawn again
        terminal.press("q")
        assert terminal.ended() == 0
        assert "\x1b[?1049l" in terminal.shown


def test_top_without_a_terminal_prints_the_state_once(running: Gateway) -> None:
    done = _run(running, "top")
    assert done.returncode == 0
    assert done.stdout.count("requests in flight") == 1
    assert "\x1b" not in done.stdout
