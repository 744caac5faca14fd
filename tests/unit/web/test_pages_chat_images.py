"""Images of a conversation: validation, access, and deletion with the message."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.web.pages import images
from tests import documents
from tests.fakes import CAPS, ScriptedDriver

from .test_pages_chat import API, KEYED, Page

PNG = documents.png(1, 2, 3)
URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
IMAGE = {"name": "a [b](c).png", "url": URL}
SEEING = msgspec.structs.replace(CAPS, chat=True, vision=True)


def ask(page: Page, **body: Any) -> Any:
    answer = page.ask(**body)
    assert answer.status_code == 201, answer.text
    page.over()
    return answer.json["question"]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(ScriptedDriver(caps=SEEING), tmp_path)


def test_image_reaches_the_model_and_stays_in_the_conversation(page: Page) -> None:
    question = ask(page, images=[IMAGE])
    assert question["extra"] == {"images": [{"name": IMAGE["name"]}]}
    assert page.messages()[0]["extra"] == question["extra"]  # the bytes are fetched separately
    (media,) = page.driver.tasks[-1].request.messages[-1].media
    assert (media.kind, media.url) == ("image", URL)
    where = f"{API}/messages/{question['id']}/images/0"
    got = page.client.get(where)
    assert (got.data, got.mimetype) == (PNG, "image/png")
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert page.client.get(f"{API}/messages/{question['id']}/images/1").status_code == 404

    ask(page, text="And now?", parent_id=page.messages()[-1]["id"])
    assert page.driver.tasks[-1].request.messages[0].media == (media,)
    other = ask(page, text="Else?", images_of=question["id"])
    assert page.driver.tasks[-1].request.messages[0].media == (media,)

    text = page.client.get(f"{API}/conversations/{page.talk}/export?as=md").text
    assert f"![a bc.png]({URL})\n\nElse?" in text
    whole = page.client.get(f"{API}/conversations/{page.talk}/export?as=json").json
    assert whole["messages"][0]["extra"]["images"] == [IMAGE]

    page.client.delete(f"{API}/conversations/{page.talk}", headers=KEYED)
    for message in (question, other):
        assert page.client.get(f"{API}/messages/{message['id']}/images/0").status_code == 404


@pytest.mark.parametrize(
    "images",
    [
        "a.png",
        [URL],
        [{"name": "a"}],
        [{"name": "a", "url": "https://example.org/a.png"}],
        [{"name": "a", "url": "data:image/svg+xml;base64,AAAA"}],
        [{"name": "a", "url": "data:image/png;base64,?"}],
        [IMAGE] * 9,
    ],
)
def test_invalid_image_is_refused_and_not_stored(page: Page, images: Any) -> None:
    assert page.ask(images=images).status_code == 400
    assert page.messages() == []


def test_model_without_vision_gets_no_images(tmp_path: Path) -> None:
    page = Page(ScriptedDriver(), tmp_path)
    refused = page.ask(images=[IMAGE])
    assert refused.status_code == 400
    assert "is not supported: this model does not accept images" in refused.json["error"]["message"]
    assert page.messages() == []
    assert "drop or paste images" not in page.client.get("/", headers={"Accept": "text/html"}).text


def test_number_of_images_per_question_is_bounded(page: Page) -> None:
    ask(page, images=[IMAGE] * images.MOST)
    assert page.ask(images=[IMAGE] * (images.MOST + 1)).status_code == 400


def test_image_of_another_host_gets_a_frame_that_admits_no_other(tmp_path: Path) -> None:
    page = Page(ScriptedDriver(), tmp_path)
    where = f"{API}/picture"
    address = 'https://example.org:8443/a.png?q="><script>'
    answer = page.client.get(where, query_string={"address": address}, headers=KEYED)
    policy = answer.headers["Content-Security-Policy"]
    assert "img-src https://example.org:8443;" in policy and "default-src 'none'" in policy
    assert policy.endswith("sandbox") and "frame-ancestors 'self'" in policy
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "<script" not in answer.get_data(as_text=True)
    bad = ("", "javascript:1", "https://a; script-src *", "//x/a", "https://u:p@h/", "http://[::1")
    for address in bad:
        refused = page.client.get(where, query_string={"address": address}, headers=KEYED)
        assert refused.status_code == 400, address
