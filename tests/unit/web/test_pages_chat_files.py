"""Files of a conversation: in a base that no other conversation sees."""

from __future__ import annotations

from flask.testing import FlaskClient

from tests.fakes import at_once, services_of

from .test_pages_chat import KEYED

API = "/pages/api/chat/conversations"


def begin(visitor: FlaskClient) -> str:
    return f"{API}/{visitor.post(API, headers=KEYED, json={}).json['id']}"


def drop(visitor: FlaskClient, talk: str, name: str, data: bytes) -> int:
    return visitor.post(
        f"{talk}/files?name={name}", headers=KEYED, data=data, content_type="text/plain"
    ).status_code


def names(visitor: FlaskClient, talk: str) -> list[str]:
    return [file["filename"] for file in visitor.get(f"{talk}/files", headers=KEYED).json]


def test_attached_files_belong_to_one_conversation(visitor: FlaskClient) -> None:
    talk, other = begin(visitor), begin(visitor)
    assert drop(visitor, talk, "a.txt", b"first") == 201
    assert drop(visitor, talk, "a.txt", b"second") == 201
    assert drop(visitor, other, "b.txt", b"other") == 201
    assert names(visitor, talk) == ["a.txt"]
    assert names(visitor, other) == ["b.txt"]
    assert visitor.get("/pages/api/knowledge", headers=KEYED).json == []


def test_files_added_and_a_pin_set_at_once_are_all_there(visitor: FlaskClient) -> None:
    app, files = visitor.application, ("", "a.txt", "b.txt")
    for _ in range(10):
        talk = begin(visitor)

        def send(number: int, talk: str = talk) -> None:
            with app.test_client() as client:
                if files[number]:
                    assert drop(client, talk, files[number], b"text") == 201
                else:
                    assert client.put(talk, headers=KEYED, json={"pinned": True}).status_code == 200

        at_once(send, 3)
        assert sorted(names(visitor, talk)) == ["a.txt", "b.txt"]
        assert visitor.get(talk, headers=KEYED).json["settings"]["pinned"] is True
    assert bases(visitor) == 10, "none that no conversation names"


def test_all_conversations_are_cleared(visitor: FlaskClient) -> None:
    begin(visitor)
    assert visitor.delete(API).status_code == 403
    assert visitor.delete(API, headers=KEYED).status_code == 204
    assert visitor.get(API, headers=KEYED).json == []


def bases(visitor: FlaskClient) -> int:
    knowledge = services_of(visitor.application).knowledge
    assert knowledge is not None
    return len(knowledge.bases(""))


def test_conversation_deletion_deletes_its_files(visitor: FlaskClient) -> None:
    talks = [begin(visitor) for _ in range(3)]
    for talk in talks:
        drop(visitor, talk, "a.txt", b"first")
    assert bases(visitor) == 3
    assert visitor.delete(talks[0], headers=KEYED).status_code == 204
    assert bases(visitor) == 2
    assert names(visitor, talks[1]) == ["a.txt"]
    assert visitor.delete(API, headers=KEYED).status_code == 204
    assert bases(visitor) == 0


def test_conversation_with_expired_files_is_deleted(visitor: FlaskClient) -> None:
    talk = begin(visitor)
    drop(visitor, talk, "a.txt", b"first")
    knowledge = services_of(visitor.application).knowledge
    assert knowledge is not None
    (base,) = knowledge.bases("")
    knowledge.delete("", base.id)
    assert visitor.delete(talk, headers=KEYED).status_code == 204
    assert visitor.get(talk, headers=KEYED).status_code == 404


def test_upload_requires_token_and_existing_conversation(visitor: FlaskClient) -> None:
    refused = visitor.post(f"{API}/none/files?name=a.txt", data=b"x")
    assert refused.status_code == 403
    assert drop(visitor, f"{API}/none", "a.txt", b"x") == 404
