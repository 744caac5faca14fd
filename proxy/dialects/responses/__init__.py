"""OpenAI Responses: POST /v1/responses, as its API reference and its client's types say.

`request` reads a body, `items` the input's items, `answer` makes the Response object and `stream`
its events. What is to be remembered is given away by a callback: nothing is stored here.
"""

from ..openai import error
from .answer import response, response_id, whole
from .items import listed
from .request import Asked, parse, shortened
from .stream import Encoder

__all__ = [
    "Asked",
    "Encoder",
    "error",
    "listed",
    "parse",
    "response",
    "response_id",
    "shortened",
    "whole",
]
