"""The web pages: chat, knowledge, models, connect, usage, requests, keys, status, docs, sign-in."""

from flask import Flask

from . import (
    accounts,
    answers,
    chat,
    connect,
    exchange,
    guard,
    images,
    knowledge,
    models,
    oidc,
    requests,
    session_routes,
    shell,
    status,
    usage,
)

__all__ = ["answers", "guard", "install", "status"]


def install(app: Flask, prefix: str) -> None:
    """Register the pages with the application; all paths start with `prefix`."""
    shell.install(app)
    chatting = (chat, images, exchange)
    signing_in = (session_routes, oidc)
    panels = (knowledge, models, connect, usage, requests, accounts, status)
    for part in (shell, *chatting, *signing_in, *panels):
        app.register_blueprint(part.blueprint, url_prefix=prefix)
