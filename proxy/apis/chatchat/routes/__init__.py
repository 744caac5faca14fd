"""Langchain-Chatchat 0.2.7's API, available if the setting `chatchat` is on."""

from flask import Blueprint

from . import bases, chats, documents, server

blueprint = Blueprint("chatchat", __name__)
for part in (chats, bases, documents, server):
    blueprint.register_blueprint(part.blueprint)
