"""Anthropic's Messages API, POST /v1/messages, as its API reference and client types define it."""

from .answer import Encoder, error, reply
from .request import parse

__all__ = ["Encoder", "error", "parse", "reply"]
