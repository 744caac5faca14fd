"""Langchain-Chatchat 0.2.7's API, available if the setting `chatchat` is on."""

from . import chats, knowledge_bases, server
from .view import blueprint

__all__ = ["blueprint", "chats", "knowledge_bases", "server"]
