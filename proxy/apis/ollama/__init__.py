"""Ollama's API under /api, as its docs/api.md and the types of its Python client define it.
Streaming is the default, as lines of JSON; durations are in nanoseconds."""
