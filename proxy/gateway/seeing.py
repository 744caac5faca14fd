"""Describes images for a model that does not see, by one that does, which `--vision` names.

A description stands as text where its image was, in every turn of the conversation. It is kept by
the digests of the image and of the text beside it, so the prompt stays the same from turn to turn,
and its cached part is used. The tokens of a description count for the key that has sent the image.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping

from msgspec.structs import replace

from ..core.cache import digest
from ..core.request import CompletionRequest, Media, Message
from ..errors import BadRequest, GatewayError, UpstreamFault
from ..runtime.cancel import Cancel
from .answer import written
from .compaction import Model
from .context import Caller, Choice, Info
from .slot_request import picture_digest

KEPT = 16 << 20  # bytes of descriptions in memory
MOST = 100  # images that are described for one request
LONGEST, SHORTEST = 768, 128  # tokens of a description, of an image with `detail` low the second
QUESTION = 1000  # characters of the text beside an image that its description is to serve
ASK = (
    "Describe this image for somebody who does not see it. Write down all text in it, word for"
    " word. Then say what it shows: objects, people, layout, colours, numbers. Write only the"
    " description."
)
Picture = tuple[str, Media]


def images(request: CompletionRequest) -> list[Picture]:
    """The images in the messages, each with the text beside it."""
    return [
        (message.content[:QUESTION], media)
        for message in request.messages
        for media in message.media
        if media.kind == "image"
    ]


def is_blind(gateway: Model, model: str, caller: Caller) -> bool:
    """Whether images for this model must be described: as far as is known, no backend of it sees,
    and it is not the one that describes."""
    registry = gateway.context.registry
    pool = registry.pool(model, caller.may.barred_tiers)
    pool = tuple(backend for backend in pool if backend.up) or pool
    sees = any(backend.sees or backend.caps is None for backend in pool)
    return not sees and registry.answering(gateway.vision)[0] != model


def described(
    gateway: Model,
    model: str,
    caller: Caller,
    cancel: Cancel,
    request: CompletionRequest,
    info: Info,
) -> Generator[Choice, None, CompletionRequest]:
    """The request with a description in place of each image, if the model does not see. Yields
    ticks. The cost is added to `info`. Raises BadRequest, and the errors of a description."""
    if not is_blind(gateway, model, caller):
        return request
    texts = dict.fromkeys(images(request), "")
    if len(texts) > MOST:
        raise BadRequest(
            f"{len(texts)} images: at most {MOST} are described per request", param="messages"
        )
    info.note(f"images: described by the model {gateway.vision}, as {info.model} does not see")
    for question, image in texts:
        parts = (gateway.vision, caller.group, image.detail, question, picture_digest(image.url))
        key = digest("\0".join(parts).encode("utf-8", "replace"))
        text = gateway.pictures.get(key)
        if text is None:
            text = yield from _description(gateway, caller, cancel, question, image, info)
            text = gateway.pictures.get(key) or text  # that of another request meanwhile
            gateway.pictures.put(key, text, len(text))
        texts[question, image] = text
    messages = tuple(_with(message, texts) for message in request.messages)
    return replace(request, messages=messages)


def _description(
    gateway: Model, caller: Caller, cancel: Cancel, question: str, image: Media, info: Info
) -> Generator[Choice, None, str]:
    ask = f"{ASK}\nIt comes with this message:\n{question}" if question else ASK
    description = CompletionRequest(
        model=gateway.vision,
        messages=(Message(role="user", content=ask, media=(replace(image, at=0),), cites=True),),
        sampling={"temperature": 0.0},
        max_tokens=SHORTEST if image.detail == "low" else LONGEST,
        reasoning_effort="none",
    )
    try:
        caller = replace(caller, on_overflow="refuse", background=True)
        text = yield from written(gateway.answer(description, cancel, caller), info)
        if not text:
            raise UpstreamFault(f"the model {gateway.vision} wrote nothing")
    except GatewayError as error:
        error.message = f"an image could not be described: {error.message}"
        raise
    return f"[An image, described by another model]\n{text}\n[End of the description]"


def _with(message: Message, texts: Mapping[Picture, str]) -> Message:
    """The message with its images as texts, whose control tokens never act."""
    if not any(media.kind == "image" for media in message.media):
        return message
    question, others = message.content[:QUESTION], [m for m in message.media if m.kind != "image"]
    pieces = [piece for piece in message.pieces if isinstance(piece, str) or piece.kind == "image"]
    content = "\n".join(p if isinstance(p, str) else texts[question, p] for p in pieces)
    return replace(message, content=content, media=tuple(others), parts=(), cites=True)
