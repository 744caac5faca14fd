"""The kinds of server.cpp that tests run on. `make test` runs that of 2023 alone."""

from __future__ import annotations

# Name in tools.servers: the module's fixture, two slots and the made-up model.
SERVER_FIXTURES = {
    "llama-2023": "_old_server",
    "powerinfer": "_powerinfer_server",
    "llama-2026": "_new_server",
}
GENERATIONS = tuple(SERVER_FIXTURES)
# Those that cannot tell their slots, and cut, double and forget as servers of 2023 do.
OLD = ("llama-2023", "powerinfer")
