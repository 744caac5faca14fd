"""Pages for people: chat, knowledge, status, sign-in."""

from flask import Flask

from . import answers, chat, chat_files, errors, images, knowledge, session_routes, shell, status

__all__ = ["answers", "errors", "install", "status"]


def install(app: Flask) -> None:
    """Serve them."""
    shell.install(
        app,
        chat.blueprint,
        chat_files.blueprint,
        images.blueprint,
        session_routes.blueprint,
        knowledge.blueprint,
        status.blueprint,
    )
