"""Runs the public conformance suite of the Model Context Protocol (npm:
@modelcontextprotocol/conformance) against a server.

    python -m tools.mcp_conformance install
    python -m tools.mcp_conformance run http://127.0.0.1:8081/mcp ping

The suite needs Node 22, which is installed from npm too, into the cache. Without npm, its tests are
skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .building import cache

PACKAGES = ("@modelcontextprotocol/conformance@0.1.16", "node@22.23.3")
SCENARIOS = (
    "server-initialize",
    "ping",
    "tools-list",
    "tools-call-simple-text",
    "tools-call-error",
    "tools-call-with-progress",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
)
# The others, by the feature that a gateway's server lacks.
ABSENT = {
    "resources": (
        "resources-list",
        "resources-read-text",
        "resources-read-binary",
        "resources-templates-read",
        "resources-subscribe",
        "resources-unsubscribe",
    ),
    "prompts": (
        "prompts-list",
        "prompts-get-simple",
        "prompts-get-with-args",
        "prompts-get-embedded-resource",
        "prompts-get-with-image",
    ),
    "completion of the arguments of prompts": ("completion-complete",),
    "logging to the client": ("logging-set-level", "tools-call-with-logging"),
    "results other than text": (
        "tools-call-image",
        "tools-call-audio",
        "tools-call-embedded-resource",
        "tools-call-mixed-content",
    ),
    "requests to the client": (
        "tools-call-sampling",
        "tools-call-elicitation",
        "elicitation-sep1034-defaults",
        "elicitation-sep1330-enums",
    ),
    "streams that are resumed": ("server-sse-polling",),
    "a schema that the suite's example server has": ("json-schema-2020-12",),
}
PATIENCE = 60  # seconds for a scenario


def folder() -> Path:
    versions = "-".join(name.rpartition("@")[2] for name in PACKAGES)
    return cache() / f"mcp-conformance-{versions}"


def find() -> list[str] | None:
    """Return the words that start the suite, or None if it is not installed."""
    modules = folder() / "node_modules"
    node, suite = modules / "node/bin/node", modules / PACKAGES[0].rpartition("@")[0]
    script = suite / "dist/index.js"
    return [str(node), str(script)] if node.is_file() and script.is_file() else None


def install() -> str | None:
    """Install the suite if needed. Returns None, or the reason why it is not available."""
    if find():
        return None
    npm = shutil.which("npm")
    if npm is None:
        return "no MCP conformance suite: npm is not installed"
    folder().mkdir(parents=True, exist_ok=True)
    # npm works in the nearest folder with a package.json.
    (folder() / "package.json").write_text(json.dumps({"private": True}))
    words = [npm, "install", "--no-audit", "--no-fund", "--no-save", *PACKAGES]
    done = subprocess.run(words, cwd=folder(), capture_output=True, text=True)
    if done.returncode or not find():
        output = done.stderr.strip().splitlines() or ["no reason given"]
        return f"no MCP conformance suite: npm: {output[-1]}"
    return None


def scenarios() -> list[str]:
    """The names of all scenarios for servers."""
    start = find()
    assert start is not None, "it is installed"
    done = subprocess.run(
        [*start, "list", "--server"], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return re.findall(r"^ +- (\S+)", done.stdout, re.MULTILINE)


def run(url: str, scenario: str) -> subprocess.CompletedProcess[str]:
    """Run a scenario; its exit code is 0 if the server conforms."""
    start = find()
    assert start is not None, "it is installed"
    words = [*start, "server", "--url", url, "--scenario", scenario]
    env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, env=env)


def main(words: list[str]) -> int:
    if words[:1] == ["install"]:
        if why := install():
            print(why)
        return 0
    if words[:1] == ["run"] and len(words) > 1:
        done = [run(words[1], scenario) for scenario in words[2:] or SCENARIOS]
        print("".join(result.stdout + result.stderr for result in done))
        return max(result.returncode for result in done)
    print(__doc__)
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
