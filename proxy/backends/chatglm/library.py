"""The one file that knows chatglm_cpp, in both of its signatures.

The first of 0.3 called the template's method otherwise, and 0.4 gave the model an image to look at.
What is used is one level below `Pipeline.chat`: that cuts prompts at 512 tokens
without a word, has no exact counts, and loses blanks while it streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .protocol import Family, Generate, Prompt, Turn

# The library cuts what is longer. Its lengths are C ints, and some are added to.
UNCUT = 1 << 30
FAMILIES: dict[str, Family] = {
    "CHATGLM": "chatglm",
    "CHATGLM2": "chatglm2",
    "CHATGLM3": "chatglm3",
    "CHATGLM4": "glm-4",
}
# These name a role before each message; the older two count rounds of question and answer.
ROLES = ("chatglm3", "glm-4")
HEADER = "<|assistant|>"


# What pybind makes of the library's exceptions.
FAULTS = (RuntimeError, ValueError, IndexError, OverflowError, MemoryError)


class Unknown(Exception):
    """Ids that this model does not have."""


class Model:
    """A loaded model. Raises FAULTS where the library fails."""

    def __init__(self, path: str, n_ctx: int = 0) -> None:
        import chatglm_cpp

        self._library: Any = chatglm_cpp
        self.version: str = getattr(chatglm_cpp, "__version__", "")
        pipeline = chatglm_cpp.Pipeline(path)
        own = pipeline.model.config.max_length
        if 0 < n_ctx < own:
            pipeline = _shortened(chatglm_cpp, path, n_ctx) or pipeline
        self._pipeline = pipeline  # it owns the model and the tokenizer
        self._model: Any = pipeline.model
        self._tokenizer: Any = pipeline.tokenizer
        config: Any = pipeline.model.config
        self.n_ctx: int = min(own, n_ctx or own)
        self.vocabulary: int = config.vocab_size
        name = config.model_type.name
        if name not in FAMILIES:
            raise RuntimeError(f"models of the type {name} are not served")
        self.family = FAMILIES[name]
        self._sees = hasattr(chatglm_cpp._C, "Image")  # since 0.4
        self._template: Callable[[Any, int], list[int]] = (
            getattr(self._tokenizer, "apply_chat_template", None) or self._tokenizer.encode_messages
        )
        self._ends = {config.eos_token_id, *getattr(config, "extra_eos_token_ids", ())}
        self._prefix: list[int] = self._tokenizer.encode("", UNCUT)
        self._roles = self._role_ids() if self.family in ROLES else {}
        self._header = self._roles.get("assistant", -1)
        # ChatGLM2 and later number their marks behind the text, "[MASK]" and "[gMASK]" first;
        # a larger id is a mark or only fills the matrix up.
        marks = {"chatglm2": 1, "chatglm3": 1, "glm-4": 2}.get(self.family)
        self._text_end = self.vocabulary if marks is None else self._prefix[0] - marks

    def encode(self, prompt: Prompt) -> list[int]:
        """All ids that the model is to be given. Raises Unknown."""
        if prompt.ids is not None:
            ids = list(prompt.ids)
            if not all(0 <= one < self.vocabulary for one in ids):
                raise Unknown
        elif prompt.text is not None:
            ids = self._tokenizer.encode(prompt.text, UNCUT)
        else:
            ids = self._chat(prompt.turns)
        for line in prompt.opening:
            ids += self.plain(line)
        if prompt.begun:
            whole = self._one("assistant", prompt.begun)[1:] if self._roles else None
            ids += self.plain(prompt.begun) if whole is None else whole
        return ids

    def plain(self, text: str) -> list[int]:
        """Ids of a text alone."""
        ids: list[int] = self._tokenizer.encode(text, UNCUT)
        # ChatGLM puts its marks behind, the others before.
        return ids[: -len(self._prefix)] if self.family == "chatglm" else ids[len(self._prefix) :]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; marks give none, bytes that are no UTF-8 give U+FFFD."""
        known = [one for one in ids if 0 <= one < self._text_end]
        if not known:
            return ""
        try:
            text: str = self._tokenizer.decode(known)
        except UnicodeDecodeError as error:
            return error.object.decode("utf-8", "replace")
        return text

    def sampler(self, wanted: Generate) -> Callable[[list[int], int, int], int]:
        """`(ids, n_past, n_prompt) -> the next id`, evaluating all ids from `n_past` on. At one
        time only one sampler is in use."""
        settings: dict[str, Any] = {
            "max_length": self.n_ctx,
            "max_context_length": self.n_ctx,
            "do_sample": wanted.temperature > 0,
            "top_k": wanted.top_k,
            "top_p": wanted.top_p,
            "temperature": wanted.temperature or 1.0,
            "repetition_penalty": wanted.repeat_penalty,
        }
        config = self._library._C.GenerationConfig(**settings)
        following = self._model.generate_next_token
        if self._sees:
            return lambda ids, past, prompt: int(following(ids, None, config, past, prompt))
        return lambda ids, past, prompt: int(following(ids, config, past, prompt))

    def ends(self, token: int) -> bool:
        return token in self._ends

    def is_header(self, token: int) -> bool:
        """Whether it opens a turn of the assistant."""
        return token == self._header

    def _chat(self, turns: Sequence[Turn]) -> list[int]:
        if not any(turn.head for turn in turns):
            return self._template([self._message(t.role, t.content) for t in turns], UNCUT)
        # The library's template has no place for the name of a called tool, which the family writes
        # where other turns have an empty line. So here turns are put together one by one.
        ids = list(self._prefix)
        for turn in turns:
            if turn.head:
                ids += [self._roles[turn.role], *self.plain(f"{turn.head}\n")]
                ids += self.plain(turn.content)
            else:
                ids += self._one(turn.role, turn.content)
        return [*ids, self._roles["assistant"]]

    def _one(self, role: str, content: str) -> list[int]:
        """A turn without what stands before the first and behind the last."""
        ids = self._template([self._message(role, content)], UNCUT)
        return ids[len(self._prefix) : -1]

    def _message(self, role: str, content: str) -> Any:
        return self._library.ChatMessage(role=role, content=content)

    def _role_ids(self) -> dict[str, int]:
        roles = ("system", "user", "assistant", "observation")
        return {role: self._one(role, "")[0] for role in roles}


def _shortened(library: Any, path: str, n_ctx: int) -> Any:
    """The pipeline with a smaller context, which needs less memory; None where 0.3 cannot."""
    try:
        return library.Pipeline(path, max_length=n_ctx)
    except TypeError:
        return None
