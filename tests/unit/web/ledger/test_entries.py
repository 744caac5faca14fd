"""What a row of the ledger says about a finished request."""

from __future__ import annotations

import pytest

from proxy.core.usage import Usage
from proxy.gateway import Info
from proxy.web.ledger.writer import PrefillSpeeds, client_of, outcome_of, row_of
from proxy.web.observability import Record
from proxy.web.routes import Route, routes_of
from tests.fakes import make_app

SERVED = Route("/v1/messages", ledger="anthropic")
ROUTES = {("POST", "/llm/v1/messages"): SERVED}


def record(status: int = 200, agent: str = "curl/8.5", **info: object) -> Record:
    made = Record({"HTTP_X_REQUEST_ID": "r", "HTTP_USER_AGENT": agent})
    made.method, made.status, made.route = "POST", status, "/llm/v1/messages"
    made.key, made.user, made.team = "ann", "u", "t"
    made.info = Info(**info)  # type: ignore[arg-type]
    return made


def test_row_has_the_counts_of_the_answer_and_who_asked() -> None:
    recorded = record(
        model="m",
        backend="b",
        slot=3,
        queue_wait=0.5,
        evaluating=1.0,
        writing=2.0,
        slot_seconds=4.0,
        usage=Usage(100, 20, 60, 5),
        outcome="length",
    )
    row = row_of(recorded, 6.0, 1700000000.25, ROUTES, PrefillSpeeds())
    assert row.ended == 1700000000250
    assert (row.request, row.key, row.user, row.team) == ("r", "ann", "u", "t")
    assert (row.model, row.backend, row.slot, row.api) == ("m", "b", 3, "anthropic")
    assert (row.prompt, row.cached, row.completion, row.reasoning) == (100, 60, 20, 5)
    assert (row.queue_seconds, row.prefill_seconds, row.decode_seconds) == (0.5, 1.0, 2.0)
    assert (row.slot_seconds, row.seconds) == (4.0, 6.0)
    assert row.saved_seconds == 60 * 1.0 / 40
    assert (row.outcome, row.client) == ("ok", "curl/8.5")


def test_times_are_measured_if_the_backend_reports_none() -> None:
    recorded = record(placed=1.0, first_token=3.0, last_token=7.0)
    row = row_of(recorded, 8.0, 0.0, {}, PrefillSpeeds())
    assert (row.prefill_seconds, row.decode_seconds) == (2.0, 4.0)


@pytest.mark.parametrize(
    ("status", "outcome", "expected"),
    [
        (200, "stop", "ok"),
        (200, "tool_calls", "ok"),
        (200, "", "ok"),
        (200, "cancelled", "cancelled"),
        (499, "client_closed_request", "cancelled"),
        (0, "", "cancelled"),
        (429, "queue_full", "queue_full"),
        (503, "stop", "503"),
        (500, "", "500"),
        (200, "x" * 1000, "x" * 128),
    ],
)
def test_outcome_is_ok_cancelled_or_the_code_of_an_error(
    status: int, outcome: str, expected: str
) -> None:
    assert outcome_of(record(status, outcome=outcome)) == expected


@pytest.mark.parametrize(
    ("agent", "client"),
    [
        ("OpenAI/Python 1.2.3", "OpenAI/Python"),
        ("curl/8.5.0", "curl/8.5.0"),
        ("Mozilla/5.0 (X11; Linux)", "Mozilla/5.0"),
        ("claude-cli/2.0 (external)", "claude-cli/2.0"),
        ("", ""),
        ("<script>", ""),
        ("日本", ""),
        ("a" * 10_000, "a" * 48),
        ("x/" + "1" * 10_000, "x/" + "1" * 48),
    ],
)
def test_client_is_the_first_product_of_the_user_agent(agent: str, client: str) -> None:
    assert client_of(agent) == client


def test_route_of_no_application_has_an_api_nevertheless() -> None:
    assert row_of(record(), 1.0, 0.0, {}, PrefillSpeeds()).api == "other"


def test_each_route_is_counted_for_its_api() -> None:
    routes = routes_of(make_app(chatchat=True))
    names = {
        ("POST", "/v1/chat/completions"): "openai",
        ("POST", "/chat/chat"): "chatchat",
        ("POST", "/mcp"): "mcp",
        ("POST", "/v1/audio/speech"): "audio",
        ("GET", "/audio/voices"): "audio",
        ("POST", "/sdapi/v1/img2img"): "images",
        ("POST", "/v2/rerank"): "rankings",
        ("POST", "/api/embed"): "embeddings",
        ("GET", "/v1/responses"): "responses",  # a WebSocket
    }
    assert {key: routes[key].ledger for key in names} == names


def test_saved_time_is_unknown_until_a_speed_is_measured() -> None:
    speeds = PrefillSpeeds()
    cached = Info(backend="b", usage=Usage(100, 1, 99), evaluating=0.01)
    assert speeds.saved(cached) == 0.0
    speeds.saved(Info(backend="b", usage=Usage(1000, 1, 0), evaluating=2.0))
    assert speeds.saved(cached) == pytest.approx(99 * 0.002)
    assert speeds.saved(Info(backend="c", usage=Usage(100, 1, 99))) == 0.0
    # Four choices evaluated the prompt, which counts once: they tell no speed.
    speeds.saved(Info(backend="b", usage=Usage(1000, 4, 0), evaluating=8.0, choices=4))
    assert speeds.saved(cached) == pytest.approx(99 * 0.002)
