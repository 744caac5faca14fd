"""Langchain-Chatchat 0.2.7's API, available if the setting `chatchat` is on."""

from flask import Blueprint

from . import chats, knowledge_bases

blueprint = Blueprint("chatchat", __name__)
for api in (
    chats.blueprint,
    knowledge_bases.bases_api,
    knowledge_bases.files_api,
    chats.server_api,
):
    blueprint.register_blueprint(api)
