"""Ollama's API under /api: `chat` and `generate` are dialects, `models` describes the served
models.

The format is defined in Ollama's docs/api.md and the types of its Python client. Streaming is the
default, as lines of JSON; durations are in nanoseconds.
"""
