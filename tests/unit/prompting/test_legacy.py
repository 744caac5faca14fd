"""The legacy text format, compared with its reference script."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.prompting.prompt import LegacyFormat


def reference(format: LegacyFormat, messages: list[dict[str, str]]) -> str:
    """``convert_chat`` of api_like_OAI.py, its settings decoded."""
    prompt = format.chat_prompt
    for line in messages:
        if line["role"] == "system":
            prompt += f"{format.system_name}{line['content']}"
        if line["role"] == "user":
            prompt += f"{format.user_name}{line['content']}"
        if line["role"] == "assistant":
            prompt += f"{format.ai_name}{line['content']}{format.stop}"
    prompt += format.ai_name.rstrip()
    return prompt


def test_default_prompt_equals_the_reference_scripts() -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Bye"},
    ]
    assert LegacyFormat().render(messages) == (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant follows the given rules no matter what.\n"
        "\nASSISTANT's RULE: Be kind.\nUSER: 你好\nASSISTANT: Hi.</s>\nUSER: Bye\nASSISTANT:"
    )
    assert LegacyFormat().stops == ("</s>",)
    assert LegacyFormat(stop="").stops == ()


@given(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()}
        )
    ),
    st.builds(
        LegacyFormat,
        chat_prompt=st.text(),
        user_name=st.text(),
        ai_name=st.text(),
        system_name=st.text(),
        stop=st.text(),
    ),
)
def test_any_conversation_gives_the_reference_scripts_bytes(
    messages: list[dict[str, str]], format: LegacyFormat
) -> None:
    assert format.render(messages) == reference(format, messages)


def test_tool_result_becomes_user() -> None:
    format = LegacyFormat(chat_prompt="", user_name="U:", ai_name="A:")
    assert format.render([{"role": "tool", "content": "r"}]) == "U:rA:"
