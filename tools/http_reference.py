"""Generates the HTTP reference of the documentation, docs/http.md, from the OpenAPI document."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from typing import Any

from proxy.app import create_app
from proxy.config import load
from proxy.core.sampling import FIELDS
from proxy.web.reference import documented, make
from proxy.web.routes import Route

SAMPLERS = set(FIELDS)
# How the paths of a table begin, in the order in which readers need them; the others follow.
ORDER = (
    *("/v1/chat/", "/v1/completions", "/v1/responses", "/v1/models", "/v1/embeddings"),
    *(
        "/v1/files",
        "/v1/vector_stores",
        "/v1/conversations",
        "/v1/batches",
        "/v1/audio/",
        "/v1/images/",
    ),
    *("/completion", "/infill", "/tokenize", "/detokenize", "/apply-template"),
    *("/api/chat", "/api/generate", "/api/embed", "/api/tags", "/api/ps", "/api/show"),
    *("/key/", "/user/", "/team/", "/v2/team/"),
)


@cache
def document() -> tuple[dict[str, Any], dict[tuple[str, str], Route]]:
    """Return the OpenAPI document of all routes, and the route of each method and path."""
    with tempfile.TemporaryDirectory() as data:
        # There is no such backend, which is no news.
        flags = ["--llama-api", "http://127.0.0.1:9", "--log-level", "error"]
        flags += ["--chatchat", "--metrics", "--data", data]
        app = create_app(load(flags, {}))
        described = {(method.lower(), path): route for method, path, route in documented(app)}
        return make(app, "", False), described


def routes() -> str:
    """Return a heading and a table for each API."""
    api, described = document()
    lines: list[str] = []
    for tag in (entry["name"] for entry in api["tags"]):
        rows = []
        for path, ways in sorted(api["paths"].items(), key=_place):
            for method, operation in ways.items():
                if operation["tags"] != [tag]:
                    continue
                same = described[method, path]
                if described.get((method, f"/v1{path}")) == same:
                    continue
                short = described.get((method, path.removeprefix("/v1"))) == same
                more = " †" if short and path.startswith("/v1/") else ""
                about = operation["summary"] + more
                rows.append(f"| `{method.upper()} {path}` | {about} | {_link(operation)} |")
        lines += ["", f"### {tag}", "", "| Route | What it does | Body |", "|---|---|---|", *rows]
    return "\n".join(lines).strip()


def _place(described: tuple[str, Any]) -> tuple[int, str]:
    path = described[0]
    places = (place for place, head in enumerate(ORDER) if path.startswith(head))
    return next(places, len(ORDER)), path


def _link(operation: Mapping[str, Any]) -> str:
    return " or ".join(f"[{name}](#{name.lower()})" for name in _names(operation))


def _names(operation: Mapping[str, Any]) -> list[str]:
    """The names of the schemas of its bodies."""
    content: Mapping[str, Any] = operation.get("requestBody", {}).get("content", {})
    return [
        schema["$ref"].rpartition("/")[2]
        for kind in content.values()
        for schema in kind["schema"].get("anyOf", [kind["schema"]])
    ]


def bodies() -> str:
    """Return a table of the fields of each body, and one of the sampling parameters."""
    api = document()[0]
    schemas = api["components"]["schemas"]
    operations = [operation for ways in api["paths"].values() for operation in ways.values()]
    named = {name for operation in operations for name in _names(operation)}
    lines: list[str] = []
    for name, schema in schemas.items():
        if name in named:
            lines += ["", f"### {name}", "", *_fields(schema)]
    samplers = schemas["LlamaCompletionRequest"]["properties"]
    shown = {field: samplers[field] for field in FIELDS}
    lines += ["", "### Sampler settings", "", "| Field | Type |", "|---|---|"]
    lines += [f"| `{field}` | {_type(schema)} |" for field, schema in shown.items()]
    return "\n".join(lines).strip()


def _fields(schema: Mapping[str, Any]) -> list[str]:
    needed = schema.get("required", [])
    properties = schema["properties"]
    all_samplers = set(properties) >= SAMPLERS
    lines = ["| Field | Type | Meaning |", "|---|---|---|"]
    for field, described in properties.items():
        if all_samplers and field in SAMPLERS:
            continue
        mark = " (required)" if field in needed else ""
        lines.append(f"| `{field}`{mark} | {_type(described)} | {described['description']} |")
    if all_samplers:
        lines.append("| | | The [sampler settings](#sampler-settings). |")
    return lines


def _type(schema: Mapping[str, Any]) -> str:
    """Describe a type in words. That a field may be null is stated once for all fields."""
    if "anyOf" in schema:
        kinds = dict.fromkeys(_type(branch) for branch in schema["anyOf"])
        return " or ".join(kind for kind in kinds if kind != "null")
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"] if value is not None)
    kind = schema["type"] if isinstance(schema["type"], str) else str(schema["type"][0])
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None and high < 1 << 30:
        return f"{kind}, {low:g} to {high:g}"
    return f"{kind}, {low:g} or more" if low is not None else kind
