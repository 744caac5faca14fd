"""The measured gateways: how each is installed and started in front of the stub.

Each serves /v1/chat/completions with one worker process on one core. Python gateways get virtual
environments of their own in the cache folder; nginx is the system's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import requests

from tools import servers
from tools.processes import Child, free_port

Command = Callable[[str, int, Path], list[str | Path]]
HERE = Path(__file__).parent
KEY = "sk-benchmark"


class Missing(RuntimeError):
    """The gateway is not available on this machine; the message says why."""


@dataclass(frozen=True)
class Kind:
    """`command` makes the command line from the stub's address, a port and a writable folder;
    `version` names the program and its version, "" for this project; `patience` is the start-up
    timeout in seconds."""

    name: str
    label: str
    command: Command
    version: Callable[[], str] = str
    patience: float = 60.0


class Running:
    """A running gateway. `started` is the time from its launch to its first answer."""

    def __init__(self, kind: Kind, upstream: str, folder: Path) -> None:
        self.kind = kind
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v1/chat/completions"
        command = kind.command(upstream, port, folder)
        self.child = Child(command, folder / f"{kind.name}.log")
        self.started = 0.0

    def start(self) -> None:
        began = time.monotonic()
        self.child.launch()
        while not self._answers():
            if not self.child.alive:
                raise self.child.fail("ended while starting")
            if time.monotonic() - began > self.kind.patience:
                raise self.child.fail("did not answer in time")
            time.sleep(0.01)
        self.started = time.monotonic() - began

    def _answers(self) -> bool:
        body = {"model": "stub", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        with requests.Session() as session:
            session.trust_env = False
            session.headers["Authorization"] = f"Bearer {KEY}"
            try:
                return session.post(self.url, json=body, timeout=10).status_code == 200
            except requests.RequestException:
                return False


def environment(name: str) -> Path:
    """Return the program folder of a virtual environment with requirements/NAME.txt."""
    wanted = HERE / "requirements" / f"{name}.txt"
    home = servers.cache() / "benchmarks" / name
    stamp = home / "installed"
    if not stamp.exists() or stamp.read_text() != wanted.read_text():
        print(f"installing {name} into {home}", file=sys.stderr, flush=True)
        venv.create(home, with_pip=True, clear=True)
        options = ("--disable-pip-version-check", "install", "--quiet", "-r", str(wanted))
        pip = [str(home / "bin" / "python"), "-m", "pip", *options]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            raise Missing(f"{name} does not install: {done.stderr.strip()[-300:]}")
        stamp.write_text(wanted.read_text())
    return home / "bin"


def _pinned(name: str) -> Callable[[], str]:
    wanted = HERE / "requirements" / f"{name}.txt"
    return lambda: f"{name} {wanted.read_text().strip().rpartition('==')[2]}"


def slotproxy(upstream: str, port: int, folder: Path) -> list[str | Path]:
    """As in production: with API keys, metrics and an access log."""
    flags = f"--llama-api {upstream} --port {port} --metrics --api-key {KEY}"
    # Separate data: never open the user's own.
    return [sys.executable, "-m", "proxy", *flags.split(), "--data", folder / f"data-{port}"]


def _by_openai(upstream: str, port: int, folder: Path) -> list[str | Path]:
    """The same through the driver for servers that speak OpenAI's API."""
    config = folder / "openai.toml"
    config.write_text(f'[[backend]]\nkind = "openai"\nurl = "{upstream}/v1"\nslots = 1024\n')
    flags = f"--config {config} --port {port} --metrics --api-key {KEY}"
    return [sys.executable, "-m", "proxy", *flags.split(), "--data", folder / f"data-{port}"]


def _nginx_program() -> str:
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        raise Missing("nginx is not installed (Debian: apt-get install nginx-light)")
    return program


def _nginx_version() -> str:
    done = subprocess.run([_nginx_program(), "-v"], capture_output=True, text=True)
    return f"nginx {done.stderr.strip().rpartition('/')[2]}"


def _nginx(upstream: str, port: int, folder: Path) -> list[str | Path]:
    program = _nginx_program()
    config = folder / "nginx.conf"
    config.write_text(
        f"""
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {folder}/nginx-access.log;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    keepalive_requests 1000000;
    upstream stub {{ server {urlsplit(upstream).netloc}; keepalive 512; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://stub;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""
    )
    return [program, "-e", folder / "nginx-error.log", "-c", config]


def _smg(upstream: str, port: int, folder: Path) -> list[str | Path]:
    flags = f"--worker-urls {upstream} --port {port} --host 127.0.0.1 --policy round_robin"
    flags += f" --backend openai --prometheus-host 127.0.0.1 --prometheus-port {free_port()}"
    flags += " --log-level error --max-concurrent-requests 4096"
    return [environment("smg") / "smg", "launch", *flags.split()]


def _litellm(upstream: str, port: int, folder: Path) -> list[str | Path]:
    config = folder / "litellm.yaml"
    config.write_text(
        f"""
model_list:
  - model_name: stub
    litellm_params: {{model: openai/stub, api_base: "{upstream}/v1", api_key: none}}
litellm_settings: {{num_retries: 0, telemetry: false}}
general_settings: {{master_key: {KEY}}}
"""
    )
    program = environment("litellm") / "litellm"
    return [program, "--config", config, "--port", str(port), "--host", "127.0.0.1"]


def _naive(upstream: str, port: int, folder: Path) -> list[str | Path]:
    return [sys.executable, "-m", "benchmarks.naive", upstream, str(port)]


KINDS = (
    Kind("slotproxy", "**slotproxy**", slotproxy),
    Kind("slotproxy-openai", "slotproxy, backend with OpenAI's API", _by_openai),
    Kind("nginx", "nginx, plain reverse proxy", _nginx, _nginx_version),
    Kind("smg", "Shepherd Model Gateway, once sglang-router (Rust)", _smg, _pinned("smg")),
    Kind(
        "naive",
        "Flask and requests, as the reference script",
        _naive,
        lambda: f"Flask {version('flask')}",
    ),
    Kind("litellm", "LiteLLM proxy", _litellm, _pinned("litellm"), patience=180.0),
)
BEFORE_2023 = Kind("slotproxy-2023", "slotproxy, in front of a server of 2023", slotproxy)
