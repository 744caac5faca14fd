"""The kinds of server.cpp that tests run on. `make test` runs that of 2023 alone, and tests on
PowerInfer's are skipped where nobody has named its program."""

from __future__ import annotations

from tools import servers

# Name in tools.servers: the module's fixture, two slots and the made-up model.
SERVER_FIXTURES = {
    "llama-2023": "_old_server",
    "powerinfer": "_powerinfer_server",
    "llama-2026": "_new_server",
}
GENERATIONS = tuple(SERVER_FIXTURES)
# Servers that do not report their slots, and truncate and forget like servers of 2023.
OLD = ("llama-2023", "powerinfer")
# The second old server of tests with several kinds: another of 2023 where PowerInfer's is not here.
SECOND_OLD = "powerinfer" if servers.find("powerinfer") else "llama-2023"
# By their /v1, with kind = "openai": a llama-server of 2026, a slotproxy in front of it, and the
# server of llama-cpp-python.
BY_OPENAI = "llama-2026-v1"
BY_SLOTPROXY = "slotproxy"
BY_PYTHON = "llama-cpp-python"
BY_V1 = (BY_OPENAI, BY_SLOTPROXY, BY_PYTHON)
