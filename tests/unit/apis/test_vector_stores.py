"""OpenAI's files and vector stores: what may be asked, and that the official client reads the
answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from proxy.apis.fields import page_of
from proxy.apis.files import routes as files_api
from proxy.apis.vector_stores import request as vector_stores
from proxy.apis.vector_stores.request import parse_filters
from proxy.errors import InvalidParameter

KEPT: dict[str, str | float | bool] = {"lang": "zh", "year": 2024, "price": 1.5, "open": True}


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ({"type": "eq", "key": "lang", "value": "zh"}, True),
        ({"type": "eq", "key": "lang", "value": "en"}, False),
        ({"type": "ne", "key": "lang", "value": "en"}, True),
        ({"type": "ne", "key": "absent", "value": "en"}, True),
        ({"type": "eq", "key": "open", "value": True}, True),
        ({"type": "eq", "key": "open", "value": 1}, False),
        ({"type": "gt", "key": "year", "value": 2023}, True),
        ({"type": "gte", "key": "year", "value": 2024.0}, True),
        ({"type": "lt", "key": "price", "value": 1.5}, False),
        ({"type": "lte", "key": "price", "value": 1.5}, True),
        ({"type": "gt", "key": "lang", "value": 3}, False),
        ({"type": "gt", "key": "absent", "value": 3}, False),
        ({"type": "in", "key": "lang", "value": ["en", "zh"]}, True),
        ({"type": "nin", "key": "lang", "value": ["en", "zh"]}, False),
        ({"type": "in", "key": "year", "value": []}, False),
    ],
)
def test_filter_parses(wanted: dict[str, Any], matches: bool) -> None:
    accepts = parse_filters(wanted)
    assert accepts is not None and accepts(KEPT) is matches
    opposite = {"type": "and", "filters": [wanted, {"type": "eq", "key": "open", "value": False}]}
    either = {"type": "or", "filters": [wanted, {"type": "eq", "key": "open", "value": True}]}
    both, any_ = parse_filters(opposite), parse_filters(either)
    assert both is not None and any_ is not None
    assert (both(KEPT), any_(KEPT)) == (False, True)


INVALID: dict[Callable[[Any], Any], list[tuple[Any, str]]] = {
    parse_filters: [
        ([], "filters"),
        ({"type": "like", "key": "a", "value": "b"}, "filters.type"),
        ({"type": "eq", "value": "b"}, "filters.key"),
        ({"type": "eq", "key": "a", "value": None}, "filters.value"),
        ({"type": "in", "key": "a", "value": "b"}, "filters.value"),
        ({"type": "and", "filters": []}, "filters.filters"),
        ({"type": "or", "filters": [None]}, "filters.filters[0]"),
        ({"type": "or", "filters": [{"type": "eq", "key": 1}]}, "filters.filters[0].key"),
    ],
    vector_stores.parse_create: [
        ({"name": 5}, "name"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"k" * 65: "x"}}, "metadata"),
        ({"expires_after": {"anchor": "now", "days": 1}}, "expires_after.anchor"),
        ({"expires_after": {"anchor": "last_active_at", "days": 0}}, "expires_after.days"),
        ({"file_ids": [1]}, "file_ids[0]"),
        ({"chunking_strategy": {"type": "other"}}, "chunking_strategy.type"),
        (
            {"chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 99}}},
            "chunking_strategy.static.max_chunk_size_tokens",
        ),
        (
            {
                "chunking_strategy": {
                    "type": "static",
                    "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 101},
                }
            },
            "chunking_strategy.static.chunk_overlap_tokens",
        ),
    ],
    vector_stores.parse_search: [
        ({}, "query"),
        ({"query": []}, "query"),
        ({"query": ["a", 5]}, "query"),
        (
            {"query": "a", "ranking_options": {"score_threshold": 1.5}},
            "ranking_options.score_threshold",
        ),
        (
            {"query": "a", "ranking_options": {"score_threshold": True}},
            "ranking_options.score_threshold",
        ),
        ({"query": "a", "filters": 5}, "filters"),
    ],
}


@pytest.mark.parametrize(
    ("parse", "body", "param"),
    [(parse, *row) for parse, rows in INVALID.items() for row in rows],
)
def test_invalid_body_is_refused(parse: Callable[[Any], Any], body: Any, param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(body)
    assert caught.value.param == param


def test_deeply_nested_filter_is_refused() -> None:
    wanted: dict[str, Any] = {"type": "eq", "key": "a", "value": 1}
    for _ in range(500):
        wanted = {"type": "and", "filters": [wanted]}
    with pytest.raises(InvalidParameter, match="nested"):
        parse_filters(wanted)


def test_valid_vector_store_parses() -> None:
    new, files = vector_stores.parse_create(
        {
            "name": "n",
            "file_ids": ["file-1", "file-1", "file-2"],
            "metadata": {"a": "b"},
            "expires_after": {"anchor": "last_active_at", "days": 3},
            "chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 300}},
        }
    )
    assert new == {"name": "n", "description": "", "metadata": {"a": "b"}, "lasts": 3}
    chunks = {"attributes": {}, "tokens": 300, "overlap": 150, "auto": False}
    assert files == [{"file_id": name, **chunks} for name in ("file-1", "file-2")]
    assert vector_stores.parse_update({"expires_after": None})["lasts"] == 0
    assert vector_stores.parse_update({})["lasts"] is None


def test_batch_has_ids_or_own_files() -> None:
    shared = vector_stores.parse_batch({"file_ids": ["a", "b"], "attributes": {"x": 1}})
    assert [(file["file_id"], file["attributes"]) for file in shared] == [
        ("a", {"x": 1}),
        ("b", {"x": 1}),
    ]
    own = vector_stores.parse_batch({"files": [{"file_id": "a", "attributes": {"y": True}}]})
    assert [(file["file_id"], file["attributes"]) for file in own] == [("a", {"y": True})]
    refused: tuple[dict[str, Any], ...] = (
        {},
        {"file_ids": ["a"], "files": [{"file_id": "b"}]},
        {"files": [{}]},
    )
    for body in refused:
        with pytest.raises(InvalidParameter):
            vector_stores.parse_batch(body)
    with pytest.raises(InvalidParameter) as caught:
        vector_stores.parse_batch({"files": [{"file_id": "a", "attributes": {"y": []}}]})
    assert caught.value.param == "files[0].attributes.y"


def test_vector_store_search_parses() -> None:
    search = vector_stores.parse_search(
        {
            "query": "长城",
            "max_num_results": 3,
            "ranking_options": {"ranker": "none", "score_threshold": 0.5},
        }
    )
    assert search == {
        "queries": ["长城"],
        "wanted": None,
        "most": 3,
        "threshold": 0.5,
        "rank": False,
    }
    assert vector_stores.parse_search({"query": ["a", "b"]})["rank"] is True


# -- files -----------------------------------------------------------------------------------------


EXPIRING = {"purpose": "batch", "expires_after[anchor]": "created_at"}


def test_upload_parses() -> None:
    form = {**EXPIRING, "expires_after[seconds]": "3600"}
    assert files_api.parse(form, "a.pdf") == ("a.pdf", "batch", 3600)


@pytest.mark.parametrize(
    ("form", "filename", "param"),
    [
        ({"purpose": "assistants"}, None, "file"),
        ({}, "a", "purpose"),
        ({"purpose": "x"}, "a", "purpose"),
        ({"purpose": "batch", "expires_after[seconds]": "9"}, "a", "expires_after.anchor"),
        (EXPIRING | {"expires_after[seconds]": "3599"}, "a", "expires_after.seconds"),
        (EXPIRING | {"expires_after[seconds]": "0000036009999"}, "a", "expires_after.seconds"),
    ],
)
def test_invalid_upload_is_refused(form: dict[str, str], filename: str | None, param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        files_api.parse(form, filename)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("filename", "plain"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\报告.pdf", "报告.pdf"),
        ("/", "file"),
    ],
)
def test_filename_is_never_a_path(filename: str, plain: str) -> None:
    assert files_api.parse({"purpose": "batch"}, filename)[0] == plain


# -- lists -----------------------------------------------------------------------------------------


def listed(**query: str) -> dict[str, Any]:
    return page_of(query, ["a", "b", "c", "d"], str, lambda key: {"id": key})


def ids(**query: str) -> str:
    return "".join(row["id"] for row in listed(**query)["data"])


def test_list_is_paginated() -> None:
    assert ids() == "dcba"
    assert ids(order="asc") == "abcd"
    assert ids(limit="3") == "dcb" and listed(limit="3")["has_more"] is True
    assert ids(after="b") == "a" and listed(after="b")["has_more"] is False
    assert ids(before="b", limit="1") == "c" and listed(before="b", limit="1")["has_more"] is True
    assert ids(before="b") == "dc" and listed(before="b")["has_more"] is False
    assert listed(limit="2", order="asc")["last_id"] == "b"
    for query, param in ((("limit", "0"), "limit"), (("order", "up"), "order"),
                         (("after", "z"), "after"), (("limit", "x"), "limit"),
                         (("limit", "0" * 8 + "1" + "9" * 5000), "limit")):  # fmt: skip
        with pytest.raises(InvalidParameter) as caught:
            listed(**dict([query]))
        assert caught.value.param == param


def test_file_named_twice_is_attached_once() -> None:
    """Attaching the same file 2 000 times took 38 seconds."""
    for body in ({"file_ids": ["a", "b", "a"]}, {"files": [{"file_id": key} for key in "aba"]}):
        assert [file["file_id"] for file in vector_stores.parse_batch(body)] == ["a", "b"]
    assert len(vector_stores.parse_create({"file_ids": ["a", "a"]})[1]) == 1
    again = [{"file_id": "a", "attributes": {"x": n}} for n in (1, 2)]
    assert vector_stores.parse_batch({"files": again})[0]["attributes"] == {"x": 2}
