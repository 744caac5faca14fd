"""What a gateway loads before its first request."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Large packages, each loaded where a feature first needs it: most gateways never do. A package in
# this list costs every start up to a third of a second, and every gateway up to 50 MB. What only a
# kind of backend or Redis needs is there too.
LATE = frozenset(
    """PIL ahocorasick_rs apsw authlib chatglm_cpp ddgs joserfc jsonschema markitdown mcp numpy
    pandas psycopg pydantic pypdfium2 redis sqlalchemy.sql waitress wsproto yaml
    proxy.backends.chatglm proxy.scheduling.shared""".split()
)

START = """
import sys
from proxy import __main__, config
from proxy.server import serve
from proxy.web.ledger import writer

writer.PERIOD = 3600.0  # the ledger opens the database half a second later
flags = ["--llama-api", "http://127.0.0.1:9", "--data", sys.argv[1], "--metrics"]
# Embeddings are loaded by a thread, a moment later.
serve.application(config.load([*flags, "--api-key", "sk-test", "--no-local-embeddings"], {}))
print(*sys.modules, flush=True)
serve.os._exit(0)
"""


def test_start_loads_no_package_that_only_some_gateways_need(tmp_path: Path) -> None:
    command = [sys.executable, "-c", START, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    loaded = set(done.stdout.split())
    assert "proxy.app.create" in loaded
    assert not LATE & loaded
