"""JSON schemas of the bodies of LiteLLM's management API."""

from __future__ import annotations

from ...accounts.rights import OVERFLOWS, PRIORITIES
from ..schema_fields import Schema, array, body, count, flag, mapping, number, one_of, strings, text
from .groups import ROLES
from .limits import DURATIONS, MOST, MOST_SPENT, NONE
from .rights import TYPES


def _limit(description: str, example: int) -> Schema:
    return count(f"{description}; -1 removes the limit.", NONE, MOST, example)


LIMITS: dict[str, Schema] = {
    "rpm_limit": _limit("Requests in a minute", 60),
    "tpm_limit": _limit("Tokens of prompts and answers in a minute", 50_000),
    "limits": mapping(
        "All limits in windows: `requests`, `prompt_tokens` and `tokens` in a `minute`, `hour`,"
        " `day` or `month` of 30 days. Empty for none.",
        {"requests": {"hour": 1000}, "tokens": {"day": 1_000_000}},
    ),
    "model_rpm_limit": mapping(
        "Requests in a minute by model: a name, or a pattern with `*`. It replaces those of all"
        " models; empty for none.",
        {"qwen*": 30},
    ),
    "model_tpm_limit": mapping("Tokens in a minute by model, in the same way.", {"qwen*": 20_000}),
    "model_limits": mapping(
        "All limits in windows by model, each as `limits`. Empty for none.",
        {"qwen*": {"requests": {"day": 500}}},
    ),
    "on_limit": text(
        "Without effect: a request beyond a limit gets 429.", "reject", enum=["", "reject"]
    ),
    "max_parallel_requests": _limit("Requests that run or wait at the same time", 4),
    "max_queued_requests": _limit("Requests that wait for a slot", 8),
    "max_prompt_tokens": _limit("Tokens of the largest prompt", 8192),
    "max_completion_tokens": _limit("Tokens of the largest answer", 1024),
    "max_budget": number(
        "Money that may be spent in `budget_duration`; -1 removes the limit.", NONE, MOST_SPENT, 20
    ),
    "soft_budget": number(
        "Money from which a warning is sent; -1 removes it.", NONE, MOST_SPENT, 15
    ),
    "budget_duration": text(
        f"The period of `max_budget`: {', '.join(DURATIONS)}, by the calendar in UTC; empty for"
        " ever.",
        "30d",
    ),
    "budget_limits": array(
        "Further budgets: objects with `unit` (money, tokens or slot_seconds), `max_budget`,"
        " `soft_budget` and `budget_duration`.",
        [{"unit": "slot_seconds", "max_budget": 3600, "budget_duration": "1d"}],
    ),
}
RIGHTS: dict[str, Schema] = {
    "models": strings("Names of models, or patterns with `*`; empty for all.", "qwen*"),
    "allowed_routes": strings(
        "Groups of routes, or paths, also with `*`; empty for all.", "chat", "/v1/models"
    ),
    "allowed_tools": strings(
        "Tools of the gateway, or patterns with `*`; empty for all.", "web_search"
    ),
    "allowed_knowledge_bases": strings(
        "Names or ids of knowledge bases, or patterns with `*`; empty for all.", "handbook"
    ),
    "object_permission": mapping(
        "LiteLLM's field: `vector_stores` sets `allowed_knowledge_bases`.",
        {"vector_stores": ["handbook"]},
    ),
    "key_type": text("Sets the routes of a kind of key.", "llm_api", enum=list(TYPES)),
    "allowed_ips": strings("Addresses and networks of clients; empty for all.", "10.0.0.0/8"),
    "barred_tiers": strings("Tiers of routes that may not be used.", "cloud"),
    "read_only": flag("Allow GET requests only."),
    "priority": text("The highest class in the queue.", "low", enum=["", *PRIORITIES]),
    "group": text("Keys of one group share cached prompts.", "research"),
    "on_overflow": text(
        "What happens to conversations that do not fit the context.",
        "compact",
        enum=["", *OVERFLOWS],
    ),
    **LIMITS,
}
_KEY: dict[str, Schema] = {
    "key_alias": text("A name for people, which no other key has.", "alice-laptop"),
    "duration": text("When the key expires: a number and s, m, h, d, w or mo.", "30d"),
    "user_id": text("The user of the key; made if it is not known yet.", "carol"),
    "team_id": text("The team of the key.", "research"),
    "metadata": mapping("Anything, up to 16 KiB of JSON; returned as it is.", {"laptop": 1}),
    "blocked": flag("Refuse the key until it is unblocked."),
    "admin": flag("Let the key do what the keys of `--admins` may."),
    **RIGHTS,
}
_GROUP: dict[str, Schema] = {
    "metadata": mapping("Anything, up to 16 KiB of JSON; returned as it is.", {"floor": 2}),
    "blocked": flag("Refuse all keys until it is unblocked."),
    **{name: schema for name, schema in RIGHTS.items() if name != "key_type"},
}
_USER_ID = text("The user's id.", "carol")
_TEAM_ID = text("The team's id.", "research")
_USER: dict[str, Schema] = {
    "user_email": text("An address that no other user has.", "carol@example.org"),
    "user_alias": text("A name for people.", "Carol"),
    "user_role": text("A viewer's keys are read only.", "internal_user", enum=list(ROLES)),
    **_GROUP,
}
_TEAM: dict[str, Schema] = {
    "team_alias": text("A name for people, which no other team has.", "Research"),
    **_GROUP,
}
_MEMBER = {"user_id": "carol", "role": "user"}
_NAME = text("The key, its `token` or its `key_id`.", "key_0123456789abcdef01234567")
_FINISH = flag(
    "Let requests under way of a key that is refused from now on go on. They end within a second"
    " otherwise."
)
_GRACE = text("How long the present secret stays valid, such as 24h.", "24h")
BODIES: dict[str, Schema] = {
    "GenerateKeyRequest": body(**_KEY),
    "UpdateKeyRequest": body("key", key=_NAME, finish_running=_FINISH, **_KEY),
    "RegenerateKeyRequest": body("key", key=_NAME, grace_period=_GRACE, **_KEY),
    "RegenerateNamedKey": body(grace_period=_GRACE, **_KEY),
    "BlockKeyRequest": body("key", key=_NAME, finish_running=_FINISH),
    "DeleteKeysRequest": body(
        keys=strings("Keys, or their `token` or `key_id`.", "key_0123456789abcdef01234567"),
        key_aliases=strings("Aliases of keys.", "alice-laptop"),
        finish_running=_FINISH,
    ),
    "NewUserRequest": body(
        user_id=_USER_ID,
        **_USER,
        teams=strings("Teams that the user joins.", "research"),
        auto_create_key=flag("Make a key of the user, too.", True),
        key_alias=_KEY["key_alias"],
        duration=_KEY["duration"],
    ),
    "UpdateUserRequest": body("user_id", user_id=_USER_ID, finish_running=_FINISH, **_USER),
    "DeleteUsersRequest": body(
        "user_ids", user_ids=strings("Ids of users.", "carol"), finish_running=_FINISH
    ),
    "NewTeamRequest": body(
        team_id=_TEAM_ID,
        **_TEAM,
        members_with_roles=array("Objects with `user_id` and `role`, admin or user.", [_MEMBER]),
    ),
    "UpdateTeamRequest": body("team_id", team_id=_TEAM_ID, finish_running=_FINISH, **_TEAM),
    "TeamRequest": body("team_id", team_id=_TEAM_ID, finish_running=_FINISH),
    "DeleteTeamsRequest": body(
        "team_ids", team_ids=strings("Ids of teams.", "research"), finish_running=_FINISH
    ),
    "AddMembersRequest": body(
        "team_id member",
        team_id=_TEAM_ID,
        member=one_of(
            "An object with `user_id` and `role`, admin or user, or a list of them.",
            _MEMBER,
            {"type": "object"},
            {"type": "array"},
        ),
    ),
    "RemoveMemberRequest": body("team_id user_id", team_id=_TEAM_ID, user_id=_USER_ID),
}
