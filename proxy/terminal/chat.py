"""``slotproxy chat``: a conversation in the terminal, or one question and its answer."""

from __future__ import annotations

import contextlib
import json
import select
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from .client import Client, TerminalError, dim, error_message, line, safe

PASTED = 0.03  # seconds in which a further line is part of what was pasted
AGAIN = "Ctrl-C again leaves"
HELP = """\
  /model        lists the models; /model NAME uses another one
  /system       shows the instructions; /system TEXT sets them, /system none removes them
  /clear        begins a new conversation
  /save FILE    writes the conversation as Markdown
  /exit         leaves, as Ctrl-D does
A \\ at the end of a line continues the message on the next one; pasted lines are one message.
Ctrl-C cancels an answer; pressed again, it leaves."""


def run(client: Client, own: Namespace) -> int:
    """Answer the question of the arguments or of the standard input, else ask for questions."""
    model, question = own.model, own.question
    if question is None and len((model or "").split()) > 1:
        model, question = None, model  # slotproxy chat "why is the sky blue?"
    if not sys.stdin.isatty():
        piped = sys.stdin.buffer.read().decode("utf-8", "replace")
        question = "\n\n".join(filter(None, (question, piped.strip() and piped))) or None
    if model and not question and model not in _models(client):
        model, question = None, model  # slotproxy chat hello
    if not question and not sys.stdin.isatty():
        raise TerminalError("there is no question: name one, or write it to the input")
    models = {model: True} if model else _models(client)
    if not models:
        raise TerminalError("the gateway serves no model yet: see slotproxy ps")
    chat = Chat(client, max(models, key=lambda name: models[name]), own.system or "")
    if question is None:
        return chat.loop()
    chat.ask(question)
    return 0


def _models(client: Client) -> dict[str, bool]:
    """The models that write text, and whether they are loaded."""
    return {
        str(model["id"]): model.get("status", {}).get("value", "loaded") in ("loaded", "sleeping")
        for model in client.get("/v1/models")["data"]
        if "text" in model.get("architecture", {}).get("output_modalities", ["text"])
    }


def _pieces(lines: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    """The parts of a streamed answer: text, reasoning, note. Raises TerminalError."""
    for row in lines:
        name, _, data = row.partition(b":")
        if not name and data.strip():
            yield "note", data.decode("utf-8", "replace")
        if name != b"data" or data.strip() == b"[DONE]":
            continue
        chunk = json.loads(data)
        if message := error_message(chunk):
            raise TerminalError(message)
        for choice in chunk.get("choices") or ():
            for kind, field in (("reasoning", "reasoning_content"), ("text", "content")):
                if part := choice.get("delta", {}).get(field):
                    yield kind, str(part)


class Chat:
    def __init__(self, client: Client, model: str, system: str = "") -> None:
        self._client, self._model, self._system = client, model, system
        self._turns: list[dict[str, str]] = []
        self._interrupted = False

    def loop(self) -> int:
        """Read messages until the end. Returns the exit code."""
        joins = False
        with contextlib.suppress(ImportError):  # Windows has none
            import readline

            readline.parse_and_bind("set enable-bracketed-paste on")
            joins = "libedit" in (readline.__doc__ or "")  # which does not mark what is pasted
        print(dim(f"{line(self._model)} at {self._client.url}; /help lists the commands"))
        while True:
            try:
                text = _read(joins)
                word, _, rest = text.partition(" ")
                if word == "/exit":
                    return 0
                # A path at the beginning of a message is no command.
                if word.startswith("/") and word.count("/") == 1 and "\n" not in word:
                    self._obey(word, rest.strip())
                elif text.strip():
                    self.ask(text)
                self._interrupted = False
            except TerminalError as error:
                print(f"slotproxy: {safe(str(error))}", file=sys.stderr)
            except EOFError:
                print()
                return 0
            except KeyboardInterrupt:
                print()
                if self._interrupted:
                    return 0
                self._interrupted = True
                print(dim(AGAIN))

    def _obey(self, word: str, text: str) -> None:
        match word, text:
            case "/help", _:
                print(HELP)
            case "/clear", _:
                self._turns = []
            case "/system", "":
                print(safe(self._system) or dim("none: /system TEXT sets some"))
            case "/system", _:
                self._system = "" if text == "none" else text
            case "/model", "":
                for name in _models(self._client):
                    print("*" if name == self._model else " ", line(name))
            case "/model", _:
                if text not in _models(self._client):
                    raise TerminalError(f"there is no model {text}: /model lists them")
                self._model = text
            case "/save", _ if text:
                self._save(Path(text).expanduser())
            case _:
                why = "/help lists the commands; begin with a space to send this as a message"
                raise TerminalError(why)

    def _save(self, file: Path) -> None:
        turns = (f"\n## {m['role'].capitalize()}\n\n{m['content']}\n" for m in self._messages)
        try:
            with file.open("x", encoding="utf-8") as opened:
                opened.write(f"# {self._model}\n{''.join(turns)}")
        except OSError as error:
            raise TerminalError(f"cannot write {file}: {error.strerror}") from None
        print(dim(f"wrote {file}"))

    @property
    def _messages(self) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self._system}] if self._system else []
        return [*system, *self._turns]

    def ask(self, text: str) -> None:
        """Print the answer as it comes. What there is of a cancelled one stays in the conversation;
        a question without any answer does not. Raises TerminalError, KeyboardInterrupt."""
        self._turns.append({"role": "user", "content": text})
        body = {"model": self._model, "messages": self._messages, "stream": True}
        stream = self._client.stream("/v1/chat/completions", body)
        answer: list[str] = []
        try:
            self._print(_pieces(stream), answer)
            print()
        except TerminalError:
            print("\n" * bool(answer), end="")  # the error has a line of its own
            raise
        finally:
            stream.close()
            if answer:
                self._turns.append({"role": "assistant", "content": "".join(answer)})
            else:
                self._turns.pop()

    def _print(self, pieces: Iterator[tuple[str, str]], answer: list[str]) -> None:
        """On a terminal, reasoning and notes are grey; elsewhere there is the text alone."""
        is_terminal, last = sys.stdout.isatty(), ""
        for kind, part in pieces:
            if is_terminal:
                shown = line(part) if kind == "note" else safe(part)
                # A note is written over; an empty line parts reasoning and text.
                gap = "\r\x1b[K" if last == "note" else "\n\n" if last not in ("", kind) else ""
                print(gap + (shown if kind == "text" else dim(shown)), end="", flush=True)
            elif kind == "text":
                print(part, end="", flush=True)
            if kind == "text":
                answer.append(part)
            last = kind


def _read(joins: bool) -> str:
    """A message. Lines that end with a backslash continue; it `joins` what is pasted."""
    lines = [input(">>> ")]
    while True:
        if lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input("... "))
        elif joins and select.select([sys.stdin], [], [], PASTED)[0]:
            lines.append(input())
        else:
            return "\n".join(lines)
