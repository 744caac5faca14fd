"""Images and sound: what is passed to a backend."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from proxy.core.request import Media, Message
from proxy.errors import BadRequest
from proxy.gateway.sent_prompt import PIECE, check_media
from tests.fakes import CAPS, ScriptedDriver, client

PNG = "data:image/png;base64," + base64.b64encode(b"x" * 30).decode()
WAV = base64.b64encode(b"y" * 30).decode()
EYES = msgspec.structs.replace(CAPS, dialect="llama-server", chat=True, vision=True)


def part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    "media",
    [
        Media(kind="image", url=PNG),
        Media(kind="image", url=PNG.replace("png", "jpeg")),
        Media(kind="audio", data=WAV, format="wav"),
    ],
)
def test_inline_data_urls_are_accepted(media: Media) -> None:
    check_media([Message(role="user", content="look", media=(media,))], 30)


@pytest.mark.parametrize(
    ("media", "why"),
    [
        (Media(kind="image", url="http://169.254.169.254/latest"), "data: URL"),
        (Media(kind="image", url="file:///etc/passwd"), "data: URL"),
        (Media(kind="image", url="data:text/html;base64,AAAA"), "data: URL"),
        (Media(kind="image", url="data:image/png;base64,AA*A"), "not valid base64"),
        (Media(kind="image", url="data:image/png;base64,AAA"), "not valid base64"),
        (Media(kind="image", url="data:image/png;base64,"), "not valid base64"),
        (Media(kind="image", url=PNG + "A" * 8), "larger than 30 bytes"),
        (Media(kind="audio", data=WAV, format="exe"), "wav or mp3"),
        (Media(kind="audio", data="", format="wav"), "not valid base64"),
    ],
)
def test_rejected_media_names_the_reason(media: Media, why: str) -> None:
    with pytest.raises(BadRequest, match=why) as caught:
        check_media(
            [Message(role="user", content="a"), Message(role="user", content="b", media=(media,))],
            30,
        )
    assert caught.value.param == "messages[1].content"


@pytest.mark.parametrize("size", [PIECE - 4, PIECE, PIECE + 4, 3 * PIECE])
def test_long_media_are_checked_to_the_end(size: int) -> None:
    def check(data: str) -> None:
        media = Media(kind="audio", data=data, format="wav")
        check_media([Message(role="user", media=(media,))], 4 * PIECE)

    check("A" * size)
    check("A" * (size - 2) + "==")
    for at in (0, size // 2, size - 4):
        with pytest.raises(BadRequest, match="not valid base64"):
            check("A" * at + "=" + "A" * (size - at - 1))


def ask(driver: ScriptedDriver, **settings: Any) -> Any:
    content = [{"type": "text", "text": "look"}, part(PNG)]
    body = {"messages": [{"role": "user", "content": content}]}
    return client(driver, **settings).post("/v1/chat/completions", json=body)


def test_image_is_relayed_to_backend_with_vision() -> None:
    driver = ScriptedDriver(caps=EYES)
    assert ask(driver).status_code == 200
    assert driver.tasks[0].backend_templates
    assert driver.tasks[0].request.messages[0].media[0].url == PNG


def test_image_is_refused_without_vision_backend() -> None:
    blind = msgspec.structs.replace(EYES, vision=False)
    for driver in (ScriptedDriver(), ScriptedDriver(caps=blind)):
        answer = ask(driver)
        assert answer.status_code == 400
        message = answer.json["error"]["message"]
        assert message.startswith("this model's backend does not accept image input: use a model")
        assert not driver.tasks
