"""The web pages: chat, knowledge, models, usage, keys, status and sign-in."""

from flask import Flask

from . import (
    accounts,
    answers,
    chat,
    folders,
    guard,
    images,
    knowledge,
    models,
    oidc,
    session_routes,
    shared,
    shell,
    status,
    usage,
)

__all__ = ["answers", "guard", "install", "status"]


def install(app: Flask, prefix: str) -> None:
    """Register the pages with the application; all paths start with `prefix`."""
    shell.install(app)
    chatting, signing_in = (chat, folders, images, shared), (session_routes, oidc)
    for part in (shell, *chatting, *signing_in, knowledge, models, usage, accounts, status):
        app.register_blueprint(part.blueprint, url_prefix=prefix)
