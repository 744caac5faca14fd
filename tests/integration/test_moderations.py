"""OpenAI's moderations with the official client, on real servers."""

from __future__ import annotations

from tests.clients import openai
from tests.integration.conftest import StartGateway
from tools.processes import ModelServer


def test_categories_are_scored(any_server: ModelServer, gateway: StartGateway) -> None:
    flags = ("--llama-api", any_server.url, "--moderation-model", "judge")
    served = gateway(*flags, "--chat-template", "legacy")
    with openai.OpenAI(
        base_url=f"{served.url}/v1",
        api_key="none",
        max_retries=0,
        timeout=60,
        _strict_response_validation=True,
    ) as api:
        found = api.moderations.create(input=["Hello!", "Good bye!"])
    assert len(found.results) == 2
    for one in found.results:
        scores = one.category_scores.to_dict()
        assert len(scores) == 13 and all(0 <= float(str(s)) <= 1 for s in scores.values())
        assert one.flagged == any(float(str(score)) >= 0.5 for score in scores.values())
