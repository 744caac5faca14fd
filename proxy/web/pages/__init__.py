"""The web pages: chat, knowledge, models, usage, keys, status and sign-in."""

from flask import Flask

from . import (
    accounts,
    answers,
    chat,
    guard,
    images,
    invitations,
    knowledge,
    models,
    oidc,
    session_routes,
    shell,
    status,
    usage,
)

__all__ = ["answers", "guard", "install", "status"]


def install(app: Flask, prefix: str) -> None:
    """Register the pages with the application; all paths start with `prefix`."""
    shell.install(app)
    signing_in = (session_routes, oidc, invitations)
    for part in (shell, chat, images, *signing_in, knowledge, models, usage, accounts, status):
        app.register_blueprint(part.blueprint, url_prefix=prefix)
