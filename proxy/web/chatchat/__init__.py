"""Langchain-Chatchat 0.2.7's API: served where `chatchat` is set."""

from flask import Blueprint

from . import bases, chats, files, server

blueprint = Blueprint("chatchat", __name__)
for part in (chats, bases, files, server):
    blueprint.register_blueprint(part.blueprint)
