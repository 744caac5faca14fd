"""The web pages: chat, knowledge, models, usage, status and sign-in."""

from flask import Flask

from . import (
    answers,
    chat,
    chat_files,
    errors,
    images,
    knowledge,
    models,
    session_routes,
    shell,
    status,
    usage,
)

__all__ = ["answers", "errors", "install", "status"]


def install(app: Flask, prefix: str) -> None:
    """Register the pages with the application; all paths start with `prefix`."""
    shell.install(app)
    for part in (shell, chat, chat_files, images, session_routes, knowledge, models, usage, status):
        app.register_blueprint(part.blueprint, url_prefix=prefix)
