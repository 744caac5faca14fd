"""The only module that uses chatglm_cpp, of which it needs 0.4.

It works one level below `Pipeline.chat`, which silently truncates prompts at 512 tokens, has no
exact counts, and loses spaces while it streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .protocol import ChatTurn, Family, Generate, PromptMessage

# A length that the library does not truncate. Its lengths are C ints, and some are added to.
UNCUT = 1 << 30
FAMILIES: dict[str, Family] = {
    "CHATGLM": "chatglm",
    "CHATGLM2": "chatglm2",
    "CHATGLM3": "chatglm3",
    "CHATGLM4": "glm-4",
}
# These families name a role before each message; the older two number question and answer rounds.
ROLES = ("chatglm3", "glm-4")
HEADER = "<|assistant|>"


# The exceptions that pybind creates from the library's.
FAULTS = (RuntimeError, ValueError, IndexError, OverflowError, MemoryError)


class Unknown(Exception):
    """Token ids that this model does not have."""


class ChatGlmModel:
    """A loaded model. Its methods raise FAULTS if the library fails."""

    def __init__(self, path: str, n_ctx: int = 0) -> None:
        import chatglm_cpp

        self._library: Any = chatglm_cpp
        self.version: str = chatglm_cpp.__version__
        pipeline = chatglm_cpp.Pipeline(path)
        own = pipeline.model.config.max_length
        if 0 < n_ctx < own:  # which needs less memory
            pipeline = chatglm_cpp.Pipeline(path, max_length=n_ctx)
        self._pipeline = pipeline  # owns the model and the tokenizer
        self._model: Any = pipeline.model
        self._tokenizer: Any = pipeline.tokenizer
        config: Any = pipeline.model.config
        self.n_ctx: int = min(own, n_ctx or own)
        self.vocabulary: int = config.vocab_size
        name = config.model_type.name
        if name not in FAMILIES:
            raise RuntimeError(f"unsupported model type: {name}")
        self.family = FAMILIES[name]
        self._template: Callable[[Any, int], list[int]] = self._tokenizer.apply_chat_template
        self._ends = {config.eos_token_id, *config.extra_eos_token_ids}
        self._prefix: list[int] = self._tokenizer.encode("", UNCUT)
        roles = ("system", "user", "assistant", "observation") if self.family in ROLES else ()
        self._roles = {role: self._one(role, "")[0] for role in roles}
        self.header = self._roles.get("assistant", -1)  # begins an assistant's turn
        # In ChatGLM2 and later, marks have ids after the text's, "[MASK]" and "[gMASK]" first; even
        # larger ids are other marks or padding of the matrix.
        marks = {"chatglm2": 1, "chatglm3": 1, "glm-4": 2}.get(self.family)
        self._text_end = self.vocabulary if marks is None else self._prefix[0] - marks

    def encode(self, prompt: PromptMessage) -> list[int]:
        """All token ids of a prompt. Raises Unknown."""
        if prompt.ids is not None:
            ids = list(prompt.ids)
            if not all(0 <= token < self.vocabulary for token in ids):
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
        """The ids of a text without marks."""
        ids: list[int] = self._tokenizer.encode(text, UNCUT)
        # ChatGLM puts its marks after the text, the other families before it.
        return ids[: -len(self._prefix)] if self.family == "chatglm" else ids[len(self._prefix) :]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Marks have none; bytes of invalid UTF-8 become U+FFFD."""
        tokens = [token for token in ids if 0 <= token < self._text_end]
        if not tokens:
            return ""
        try:
            text: str = self._tokenizer.decode(tokens)
        except UnicodeDecodeError as error:
            return error.object.decode("utf-8", "replace")
        return text

    def sampler(self, wanted: Generate) -> Callable[[list[int], int, int], int]:
        """Returns `(ids, n_past, n_prompt) -> the next id`, which evaluates all ids from `n_past`
        on. Only one sampler may be in use at a time."""
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
        return lambda ids, past, prompt: int(following(ids, None, config, past, prompt))

    def ends(self, token: int) -> bool:
        return token in self._ends

    def _chat(self, turns: Sequence[ChatTurn]) -> list[int]:
        if not any(turn.head for turn in turns):
            return self._template([self._message(t.role, t.content) for t in turns], UNCUT)
        # The library's template cannot add the name of a called tool, which the family writes where
        # other turns have an empty line. So turns are assembled one by one here.
        ids = list(self._prefix)
        for turn in turns:
            if turn.head:
                ids += [self._roles[turn.role], *self.plain(f"{turn.head}\n")]
                ids += self.plain(turn.content)
            else:
                ids += self._one(turn.role, turn.content)
        return [*ids, self._roles["assistant"]]

    def _one(self, role: str, content: str) -> list[int]:
        """The ids of a turn, without the marks around the conversation."""
        ids = self._template([self._message(role, content)], UNCUT)
        return ids[len(self._prefix) : -1]

    def _message(self, role: str, content: str) -> Any:
        return self._library.ChatMessage(role=role, content=content)
