"""The table that maps refusals of a backend to errors."""

from __future__ import annotations

import pytest

from proxy.backends.refusals import MAX_SAID, refusal, said, stream_error
from proxy.errors import (
    BackendBusy,
    BackendFailed,
    BadRequest,
    ContextExceeded,
    GatewayError,
    UpstreamFault,
)

BODIES = (b"", b"\xff", b"null", b"[]", b"{}", b'{"error":{}}', b'{"error":[1]}')


@pytest.mark.parametrize("body", BODIES)
def test_every_status_maps_to_an_error_with_a_message(body: bytes) -> None:
    for status in (-1, 0, 42, 99, *range(100, 600), 600, 999, 10**9):
        error = refusal(status, body)
        assert error.status >= 400
        assert error.message


@pytest.mark.parametrize(
    ("status", "ours"), [(400, 400), (413, 413), (422, 400), (500, 502), (501, 501), (504, 504)]
)
def test_client_gets_the_mapped_status(status: int, ours: int) -> None:
    assert refusal(status, b'{"error":{"message":"no"}}').status == ours


def test_404_means_busy_only_for_completions() -> None:
    """For /tokenize 404 means a missing route: waiting for a slot would never end."""
    assert isinstance(refusal(404, b"File Not Found", completion=True), BackendBusy)
    assert not isinstance(refusal(404, b"File Not Found"), BackendBusy)


def test_refusal_message_is_bounded_and_has_no_secret() -> None:
    assert len(refusal(400, b"x" * 10**6).message) < MAX_SAID + 50
    text = (
        "Bearer abc.def at https://10.1.2.3:8080/v1 or 10.1.2.3:80 or localhost:9, key "
        "4711, sk-123, api_key=xyz, /home/me/models/x.gguf\x1b[31m\n red"
    )
    told = said(text, "4711")
    for hidden in (
        "abc.def",
        "10.1.2.3",
        "8080",
        "4711",
        "sk-123",
        "xyz",
        "/home",
        "x.gguf",
        "\x1b",
    ):
        assert hidden not in told
    assert said("tokens/s and/or 3/4 of 1.5 are fine: a[0] = 5") == (
        "tokens/s and/or 3/4 of 1.5 are fine: a[0] = 5"
    )


def test_the_cause_of_a_failure_is_told_without_paths() -> None:
    error = refusal(500, b'{"error":{"message":"CUDA out of memory in /home/me/ggml.cu"}}')
    assert error.message == "the backend failed: CUDA out of memory in …"
    error.show_to(str)
    assert error.message == "the backend failed: CUDA out of memory in /home/me/ggml.cu"


@pytest.mark.parametrize("body", [b"", b"<html><h1>502 Bad Gateway</h1></html>"])
def test_a_failure_without_words_has_none(body: bytes) -> None:
    error = refusal(502, body)
    error.show_to(str)
    assert error.message == "the backend failed"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"content":"slot unavailable"}', BackendBusy),
        (b'{"content":"it broke"}', BackendFailed),
        (b'{"code":400,"message":"no","type":"invalid_request_error"}', BadRequest),
        (b'{"error":{"code":null,"message":"no"}}', BackendFailed),
        (b"it broke", BackendFailed),
        (b'{"error":{"type":"exceed_context_size_error","n_ctx":5}}', ContextExceeded),
    ],
)
def test_stream_errors_are_read_in_every_format(data: bytes, kind: type[GatewayError]) -> None:
    error = stream_error(data)
    assert isinstance(error, kind)
    assert isinstance(error, (UpstreamFault, BadRequest))
