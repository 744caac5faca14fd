"""GET /openapi.json: an OpenAPI 3.1 document of all API routes, except those for pages alone."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from flask import Flask, Response, current_app, request

from .. import __version__
from ..apis.schema_fields import TEXT, Schema, object_of
from .routes import ANY, Api, Route, routes_of
from .services import current_services

blueprint = Api("reference", __name__, group="", tag="slotproxy")

KEPT = "slotproxy.openapi"  # key of the finished document in app.extensions, and compressed
ALIAS = "x-alias"  # marks operations that the viewer leaves out
VIEWER = "panel_connect"  # the blueprint of the page that shows the document
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
FIRST = ("OpenAI", "Anthropic", "Ollama")  # the tags that readers look for; then the others
SHOWN = ("model", "messages", "prompt", "input")  # in examples of bodies, required or not
ERROR = object_of("error", error=object_of("message type", message=TEXT, type=TEXT))


def documented(app: Flask) -> Iterator[tuple[str, str, Route]]:
    """Yield method, path as OpenAPI writes it, and route of the documented APIs, by tag and then in
    the order of their registration, aliases last. OpenAPI does not describe WebSockets."""
    sockets = {rule.rule for rule in app.url_map.iter_rules() if rule.websocket}
    routes = [
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route.path), route)
        for (method, rule), route in routes_of(app).items()
        if method in METHODS and route.tag and not (method == "GET" and rule in sockets)
    ]
    by_path = {(method, path): route for method, path, route in routes}
    tags = list(dict.fromkeys((*FIRST, *(route.tag for _, _, route in routes))))
    yield from sorted(
        routes, key=lambda each: (tags.index(each[2].tag), is_alias(by_path, each[0], each[1]))
    )


def is_alias(routes: Mapping[tuple[str, str], Route], method: str, path: str) -> bool:
    """Whether a route is another one without its /v1."""
    whole = routes.get((method, f"/v1{path}"))
    route = routes[method, path]
    return whole is not None and whole._replace(path=route.path) == route


def make(app: Flask, prefix: str, keys: bool) -> dict[str, Any]:
    """Build the document; `keys` says whether requests need an API key."""
    schemas = schemas_of(app)
    paths: dict[str, dict[str, Any]] = {}
    routes = {(method, path): route for method, path, route in documented(app)}
    for (method, path), route in routes.items():
        about = _operation(route, method.lower(), path, keys, schemas)
        if is_alias(routes, method, path):
            about |= {"summary": f"The same as /v1{path}", ALIAS: True}
        paths.setdefault(path, {})[method.lower()] = about
    key = {
        "key": {"type": "http", "scheme": "bearer"},
        "x_api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "slotproxy",
            "version": __version__,
            "description": "A gateway in front of llama.cpp, PowerInfer and ChatGLM servers.",
        },
        "externalDocs": {"url": place(app)},
        "servers": [{"url": prefix or "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes.values())],
        "paths": paths,
        "components": {"schemas": schemas, **({"securitySchemes": key} if keys else {})},
        **({"security": [{"key": []}, {"x_api_key": []}]} if keys else {}),
    }


def place(app: Flask) -> str:
    """Where a reader finds the routes: the page, or without pages the document."""
    name = "docs" if VIEWER in app.blueprints else "openapi.json"
    return f"{app.config['API_PREFIX']}/{name}"


def schemas_of(app: Flask) -> dict[str, Schema]:
    """The schemas of all served APIs, by their names in the document."""
    schemas: dict[str, Schema] = {"Error": ERROR}
    for api in app.iter_blueprints():
        schemas |= getattr(api, "schemas", {})
    return schemas


def _operation(
    route: Route, method: str, path: str, keys: bool, schemas: Mapping[str, Schema]
) -> dict[str, Any]:
    slug = re.sub(r"\W+", "_", path).strip("_")
    answers: dict[str, Any] = {route.answer: {}}
    if route.streams:
        answers[route.streams] = {}
    error = {"schema": _ref(route.error_schema)}
    errors: dict[str, Any] = {"application/json": error}
    if route.foreign:
        errors = {"application/json": {}, ANY: {}}
    whole: dict[str, Any] = {"200": {"description": "OK", "content": answers}}
    operation: dict[str, Any] = {
        "operationId": f"{method}_{slug}",
        "tags": [route.tag],
        "summary": route.summary,
        "responses": {
            **(whole if route.answer else {}),
            **{status: {"description": text} for status, text in route.empty.items()},
            "default": {"description": "An error", "content": errors},
        },
    }
    names = re.findall(r"{(\w+)}", path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if route.body and method != "get":
        operation["requestBody"] = _body(route, schemas[route.body])
    if keys and route.is_open:
        operation["security"] = []
    return operation


def _body(route: Route, body: Schema) -> dict[str, Any]:
    if any("contentMediaType" in field for field in body["properties"].values()):
        return {"content": {"multipart/form-data": {"schema": _ref(route.body)}}}
    schema = _ref(route.body)
    if route.other:
        schema = {"anyOf": [schema, _ref(route.other)]}
    content = {"schema": schema, "example": _example(body)}
    return {"required": True, "content": {"application/json": content}}


def _example(body: Schema) -> dict[str, Any]:
    """A short body that can be sent: its required fields, and those that readers change."""
    fields: Mapping[str, Schema] = body["properties"]
    names = dict.fromkeys((*SHOWN, *body.get("required", ())))
    examples = ((name, fields.get(name, {}).get("examples")) for name in names)
    return {name: example[0] for name, example in examples if example}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


@blueprint.get("/openapi.json", is_open=True)
def document() -> Response:
    """This document."""
    extensions = current_app.extensions
    if KEPT not in extensions:
        settings = current_services().settings
        schema = make(current_app, settings.api_prefix, bool(settings.keys))
        document = msgspec.json.encode(schema)
        extensions[KEPT] = document, gzip.compress(document, 9, mtime=0)
    packs = request.accept_encodings.quality("gzip") > 0
    response = Response(extensions[KEPT][packs], content_type="application/json")
    response.headers["Vary"] = "Accept-Encoding"
    if packs:
        response.headers["Content-Encoding"] = "gzip"
    return response
