"""The files in deploy/: each is valid for its program, and starts a gateway with its settings."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config import load, table
from proxy.runtime import life
from tests.docs_pages import ROOT, blocks, write_files

DEPLOY = ROOT / "deploy"
PAGES = sorted((ROOT / "docs" / "deploy").glob("*.md"))
COMPOSE = sorted((DEPLOY / "compose").glob("*.yaml"))
UNIT = DEPLOY / "systemd" / "slotproxy.service"
MOST_EXPOSURE = 16  # tenths, by systemd-analyze security


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def systemd() -> str:
    return shutil.which("systemd-analyze") or pytest.skip("no systemd-analyze here")


def test_files_on_the_pages_equal_those_in_the_folder() -> None:
    files = {path.name: path for path in DEPLOY.rglob("*") if path.is_file()}
    shown = {block.title: block.text for page in PAGES for block in blocks(page) if block.title}
    assert {"slotproxy.service", "slotproxy.conf", "two-gateways.conf", "Caddyfile"} <= {*shown}
    for title, text in shown.items():
        if title in files:
            assert text == files[title].read_text("utf-8"), title


def test_everybody_waits_longer_than_a_stop_takes() -> None:
    patterns = {
        "systemd/slotproxy.service": r"^TimeoutStopSec=(\d+)$",
        "kubernetes/deployment.yaml": r"terminationGracePeriodSeconds: (\d+)$",
        **{f"compose/{path.name}": r"stop_grace_period: (\d+)s$" for path in COMPOSE},
    }
    for name, pattern in patterns.items():
        found = re.findall(pattern, (DEPLOY / name).read_text("utf-8"), re.M)
        assert found, name
        assert min(map(int, found)) > life.GRACE + life.SHUTDOWN, name


# -- systemd ---------------------------------------------------------------------------------------


def test_unit_starts_the_gateway_with_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = UNIT.read_text("utf-8")
    start = re.search(r"^ExecStart=/opt/slotproxy/bin/slotproxy (.*)$", unit, re.M)
    assert start is not None
    write_files(ROOT / "docs" / "settings.md", tmp_path)
    assert "WorkingDirectory=/etc/slotproxy\n" in unit
    monkeypatch.chdir(tmp_path)
    flags = start[1].replace("/etc/slotproxy", str(tmp_path)).split()
    assert load(flags, {}).data == "/var/lib/slotproxy"
    assert "StateDirectory=slotproxy\n" in unit


def test_unit_is_valid(systemd: str, tmp_path: Path) -> None:
    # The program, the user and the folder need not exist on this machine.
    placed = UNIT.read_text("utf-8").replace("/opt/slotproxy/bin/slotproxy", sys.executable)
    placed = placed.replace("/etc/slotproxy", str(tmp_path))
    path = tmp_path / "slotproxy.service"
    path.write_text(placed.replace("User=slotproxy", "User=root"), encoding="utf-8")
    verified = _run(systemd, "verify", "--man=no", "--recursive-errors=no", path)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_unit_is_hardened(systemd: str) -> None:
    if "--offline" not in _run(systemd, "--help").stdout:
        pytest.skip("systemd-analyze is too old to judge a file")
    judged = _run(
        systemd, "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", "--no-pager", UNIT
    )
    assert judged.returncode == 0, judged.stdout[-200:]


# -- containers ------------------------------------------------------------------------------------


def test_image_copies_only_what_is_there_and_not_ignored() -> None:
    text = (DEPLOY / "Containerfile").read_text("utf-8")
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M)
    allowed = [
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text("utf-8").split()
    ]
    named = {word for words in copied for word in words.split()}
    assert [word for word in named if not (ROOT / word).exists()] == []
    assert named <= {*allowed}


def test_image_runs_without_root_and_has_a_health_check() -> None:
    text = (DEPLOY / "Containerfile").read_text("utf-8")
    assert re.search(r"^USER 10001:10001$", text, re.M)
    assert "/livez" in text[text.index("HEALTHCHECK") :]


def test_health_check_asks_the_port_that_is_set() -> None:
    text = (DEPLOY / "Containerfile").read_text("utf-8").replace("\\\n", "")
    found = re.search(r"^HEALTHCHECK .*?CMD (\[.*\])$", text, re.M)
    assert found is not None
    _, flag, code = json.loads(found[1])
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        environ = {**os.environ, "SLOTPROXY_PORT": str(server.server_address[1])}
        command = [sys.executable, flag, code]
        assert subprocess.run(command, env=environ, timeout=30, check=False).returncode == 0
    assert asked == ["/livez"]


@pytest.mark.parametrize("file", COMPOSE, ids=lambda path: path.name)
def test_compose_file_fits_its_schema_and_hardens_gateways(file: Path) -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = _run(*command, file)
    assert checked.returncode == 0, checked.stdout
    services = yaml.safe_load(file.read_text("utf-8"))["services"]
    for name in services:
        if name.startswith("gateway"):
            gateway = services[name]
            assert gateway["read_only"] is True
            assert gateway["cap_drop"] == ["ALL"]
            assert gateway["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("file", COMPOSE, ids=lambda path: path.name)
def test_compose_file_sets_only_settings_that_exist(file: Path) -> None:
    known = {row.variable for row in table()}
    found = set(re.findall(r"\bSLOTPROXY_\w+", file.read_text("utf-8")))
    assert found and found <= known


def test_gateways_keep_their_addresses_when_they_are_replaced() -> None:
    """nginx resolves the names of its upstream when it starts, and never again."""
    team = yaml.safe_load((DEPLOY / "compose" / "team.yaml").read_text("utf-8"))
    (network,) = team["networks"]["inside"]["ipam"]["config"]
    subnet, dynamic = ip_network(network["subnet"]), ip_network(network["ip_range"])
    upstream = (DEPLOY / "nginx" / "two-gateways.conf").read_text("utf-8")
    names = re.findall(r"^\s*server ([\w-]+):8081", upstream, re.M)
    assert names == ["gateway-1", "gateway-2"]
    for name in names:
        gateway = team["services"][name]
        address = ip_address(gateway["networks"]["inside"]["ipv4_address"])
        assert address in subnet and address not in dynamic
        assert gateway["environment"]["SLOTPROXY_TRUSTED_PROXIES"] == str(subnet)


# -- Kubernetes ------------------------------------------------------------------------------------


def _manifests() -> Iterator[tuple[Path, Any]]:
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text("utf-8")):
            yield path, document


def test_manifests_fit_the_schemas_of_kubernetes() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    seen = set()
    for path, document in _manifests():
        if document["kind"] == "Kustomization":
            assert {*document["resources"], "kustomization.yaml"} == {
                one.name for one in path.parent.glob("*.yaml")
            }
            continue
        seen.add(document["kind"])
        validate.validate(document, validate.latest_version(), strict=True)
    assert seen >= {"Deployment", "Service", "Ingress", "PersistentVolumeClaim", "NetworkPolicy"}


def test_settings_of_the_cluster_load(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ops sk-ops-0123456789\n", encoding="utf-8")
    text = (DEPLOY / "kubernetes" / "slotproxy.toml").read_text("utf-8")
    file = tmp_path / "slotproxy.toml"
    file.write_text(text.replace("/run/secrets/slotproxy/keys", str(keys)), encoding="utf-8")
    settings = load(["--config", str(file)], {})
    assert settings.admins == ("ops",)
    assert len(settings.keys) == 1
