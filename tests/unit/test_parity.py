"""What the reference script (PowerInfer's api_like_OAI) does, kept: request, prompt, answer."""

from __future__ import annotations

from typing import Any

from tests.fakes import ScriptedDriver, client, say

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]


def task_of(body: dict[str, Any], path: str = "/v1/chat/completions", **settings: Any) -> Any:
    driver = ScriptedDriver()
    answer = client(driver, **settings).post(path, json=body)
    assert answer.status_code == 200, answer.get_data()
    return driver.tasks[0]


def test_prompt_equals_the_reference_scripts() -> None:
    assert task_of({"messages": MESSAGES}).prompt == (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant follows the given rules no matter what.\n"
        "\nASSISTANT's RULE: Be kind.\nUSER: Hi\nASSISTANT: Hello</s>\nUSER: Bye\nASSISTANT:"
    )


def test_reference_flags_change_the_prompt() -> None:
    task = task_of(
        {"messages": MESSAGES[1:2]}, chat_prompt="P|", user_name="U:", ai_name="A: ", stop="END"
    )
    assert (task.prompt, task.stop_tokens) == ("P|U:HiA:", ("END",))


def test_reference_request_fields_keep_their_names() -> None:
    sampling = {
        "temperature": 0.1,
        "top_k": 5,
        "top_p": 0.5,
        "presence_penalty": 1,
        "frequency_penalty": 2,
        "repeat_penalty": 1.2,
        "mirostat": 1,
        "mirostat_tau": 4.0,
        "mirostat_eta": 0.2,
        "seed": 9,
    }
    task = task_of(
        {"messages": MESSAGES, "max_tokens": 7, "logit_bias": {"5": -1}, "stop": ["x"], **sampling}
    )
    assert task.sampling == {**sampling, "logit_bias": [[5, -1]]}
    assert task.max_tokens == 7
    # There, the answer ran on into a turn of the user.
    assert (task.stop_tokens, task.stop_strings) == (("</s>",), ("x", "\nUSER:"))


def test_stop_string_is_not_split_into_letters() -> None:
    """There it was `list += "str"`."""
    assert task_of({"messages": MESSAGES, "stop": "END"}).stop_strings == ("END", "\nUSER:")


def test_completion_prompt_is_unchanged() -> None:
    task = task_of({"prompt": "Once upon"}, "/v1/completions")
    assert (task.prompt, task.stop_tokens) == ("Once upon", ())


def test_answer_has_the_fields_of_the_reference_script() -> None:
    to = client(ScriptedDriver(say("Hello")))
    answer = to.post("/chat/completions", json={"messages": MESSAGES}).json
    assert answer is not None
    assert answer["object"] == "chat.completion"
    assert answer["truncated"] is False
    assert answer["choices"][0]["message"]["content"] == "Hello"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == 10
    text = to.post("/completions", json={"prompt": "Hi"}).json
    assert text is not None
    assert text["object"] == "text_completion"
    assert text["choices"][0]["text"] == "Hello"
