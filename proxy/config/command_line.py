"""The command line: flags derived from the table, and commands, most of which take them too."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal, NoReturn, get_args, get_origin

from proxy import __version__

from .settings import SECTIONS, SettingsError
from .table import ENV_PREFIX, SettingRow, table

PROG = "slotproxy"
COMMANDS = {
    "init": "write a settings file for the servers and models of this machine",
    "chat": "talk to a model of a running gateway, or ask it one question",
    "ps": "list the models of a running gateway: state, slots, memory",
    "top": "watch a running gateway: slots, waiting requests, tokens per second",
    "pull": "download a model of Hugging Face into the folder of --models-dir",
    "doctor": "check the settings, backends and storage, with a remedy for each problem",
    "backup": "copy the stored data to FILE, also while slotproxy runs",
    "restore": "replace the stored data by a backup, while slotproxy does not run",
}
# Those that take one word, and what it is.
TAKE = {
    "backup": ("FILE", "the backup, a .tar.gz archive"),
    "restore": ("FILE", "the backup, a .tar.gz archive"),
    "pull": ("MODEL", "hf:OWNER/REPO, or hf:OWNER/REPO:QUANTIZATION"),
}
TALK = ("chat", "ps", "top")  # to a running gateway
EXAMPLES = {
    "": ("--llama-api http://127.0.0.1:8080", "--models-dir ~/models --memory 24GiB"),
    "init": ("init", "init slotproxy.toml --from config.yaml"),
    "pull": (
        "pull hf:Qwen/Qwen3-8B-GGUF --models-dir ~/models --memory 24GiB",
        "pull hf:Qwen/Qwen3-8B-GGUF:Q8_0 --config slotproxy.toml",
        "pull hf:Qwen/Qwen3-8B-GGUF --list",
    ),
    "chat": ("chat", "chat qwen3 'why is the sky blue?'", "chat 'what failed here?' < app.log"),
    "ps": ("ps", "ps --url http://gpu.example:8081 --key-file ~/.slotproxy-key"),
    "top": ("top", "top --config slotproxy.toml"),
    "doctor": ("doctor --config slotproxy.toml",),
    "backup": ("backup monday.tar.gz --config slotproxy.toml",),
    "restore": ("restore monday.tar.gz --config slotproxy.toml",),
}
# What --help shows for a value, by its check.
VALUES = {
    "URL": "server url mcp_url state_url webhook",
    "FILE": "path",
    "DIR": "folder",
    "SIZE": "size",
    "SIZE,SIZE": "sizes",
    "KEY": "checked",
    "HOST": "allowed_host",
    "ADDRESS": "trusted_proxy",
    "ORIGIN": "origin",
    "PATH": "prefix",
    "NAME=VALUE": "sampler",
    "TEXT": "unescaped",
}
HELP = ("-h", "--help")
ALL = "all"
# What --help shows at once: the flags of the first day.
EVERYDAY = (
    *("llama_api", "slots", "models_dir", "memory", "chat_template", "host", "port", "data"),
    *("api_key_file", "log_level"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message.removeprefix("argument "))


class _Help(argparse.Action):
    """Prints the everyday flags, one group of flags, or all of them, and ends."""

    def __call__(self, parser: Any, namespace: Any, topic: Any, flag: str | None = None) -> None:
        if topic == ALL:
            text = parser.format_help()
        elif topic is None:
            text = _parser(lambda row: row.name in EVERYDAY, _overview()).format_help()
        elif topic in (topics := _topics()):
            text = _parser(lambda row: row.group == topics[topic], "").format_help()
        else:
            raise SettingsError(f"--help: {topic!r} is not one of {', '.join((*topics, ALL))}")
        print(text, end="")
        parser.exit()


def _topics() -> dict[str, str]:
    """The groups of settings, by the word that --help takes: the first of their name."""
    return {row.group.split()[0].lower(): row.group for row in table()}


def _overview() -> str:
    topics = "".join(f"  --help {word:<12} {group}\n" for word, group in _topics().items())
    return f"more settings:\n{topics}  --help {ALL:<12} all of them\n\n{_epilog()}"


def _examples(command: str) -> str:
    return "examples:\n" + "".join(f"  {PROG} {line}\n" for line in EXAMPLES[command])


def _epilog() -> str:
    return (
        f"Each setting can also be set as {ENV_PREFIX}NAME in the environment or as name in the\n"
        "TOML file. Flags override the environment, which overrides the file. Separate list items\n"
        "with commas, or repeat the flag. The file has tables too:\n"
        + ", ".join(f"[{name}]" for name in SECTIONS)
        + f", [[backend]], [[route]], [[model]], [[price]] and [[mcp]].\n\n{_examples('')}"
    )


@cache
def parser() -> argparse.ArgumentParser:
    """The server's flags, as text. Made once: it is full of cycles, and each reload needs it."""
    return _parser(lambda row: True, _epilog())


def _parser(shown: Callable[[SettingRow], bool], epilog: str) -> argparse.ArgumentParser:
    """A parser of the settings that are `shown`; without an epilog, of one group."""
    form = partial(argparse.RawDescriptionHelpFormatter, max_help_position=30, width=100)
    made = _Parser(
        prog=PROG,
        usage=argparse.SUPPRESS,
        epilog=epilog,
        formatter_class=form,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    if epilog:
        made.usage = "%(prog)s --llama-api URL [options]\n       %(prog)s COMMAND [options]"
        commands = "\n".join(f"  {name:<12} {text}" for name, text in COMMANDS.items())
        made.description = f"commands ({PROG} COMMAND --help has examples):\n{commands}"
        text = "this, the settings of one group, or all"
        made.add_argument(*HELP, action=_Help, nargs="?", metavar="GROUP", help=text)
        made.add_argument("--version", action="version", version=f"{PROG} {__version__}")
        text = "settings file: TOML, llama-swap's .yaml, or llama-server's presets (.ini)"
        made.add_argument("--config", metavar="FILE", help=text)
    groups: dict[str, Any] = {}
    for row in filter(shown, table()):
        if row.group not in groups:
            groups[row.group] = made.add_argument_group(row.group)
        default = f" (default: {row.shown_default})" if row.shown_default else ""
        options: dict[str, Any] = {"help": (row.help + default).replace("%", "%%")}
        if row.type is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"action": "append" if row.is_list else "store", "metavar": _shown(row)}
        groups[row.group].add_argument(row.flag, **options)
    return made


def _shown(row: SettingRow) -> str:
    """What --help shows for the value."""
    if get_origin(row.item) is Literal:
        return "|".join(get_args(row.item))
    if row.bounds.title:
        return row.bounds.title
    check = getattr(row.check, "__name__", "")
    named = next((value for value, checks in VALUES.items() if check in checks.split()), "NAME")
    return {int: "N", float: "SECONDS"}.get(row.item, named)


def split(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The command, "" to serve, and the other arguments."""
    if argv and argv[0] in COMMANDS:
        return argv[0], list(argv[1:])
    return "", list(argv)


def no_command(name: str) -> str:
    """Why there is no command of this name."""
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}? Commands" if near else "the commands"
    return f"unknown command {name!r}; {hint} are {', '.join(COMMANDS)}; --help lists all flags"


def of_command(name: str, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's own arguments, and the settings. Raises SettingsError, and SystemExit(0)."""
    form = argparse.RawDescriptionHelpFormatter
    made = _Parser(prog=f"{PROG} {name}", formatter_class=form, allow_abbrev=False)
    made.description, made.epilog = COMMANDS[name], _examples(name)
    if name in TALK:
        return _of_talk(made, name, argv)
    word, text = TAKE.get(name, ("", ""))
    if name == "init":
        about = "the file to write (default: slotproxy.toml)"
        made.add_argument("file", nargs="?", default="slotproxy.toml", metavar="FILE", help=about)
        about = "write what this file says: llama-swap's .yaml, or llama-server's presets (.ini)"
        made.add_argument("--from", dest="source", metavar="FILE", help=about)
    if word:
        made.add_argument(word.lower(), metavar=word, help=text)
    if name == "pull":
        made.add_argument("--list", action="store_true", help="only list the quantizations")
    elif name == "doctor":
        made.add_argument("--json", action="store_true", help="print the findings as JSON")
    else:
        made.add_argument(
            "--force", action="store_true", help="overwrite an existing file without asking"
        )
    if name == "init":
        return made.parse_args(list(argv)), []
    made.epilog += f"\nIt takes the settings of the server too: see {PROG} --help."
    made.usage = f"%(prog)s{f' {word}' if word else ''} [options] [settings]"
    # Behind a flag of the server, it would be taken for the value of that flag.
    if word and (not argv or (argv[0].startswith("-") and argv[0] not in HELP)):
        raise SettingsError(f"name the {word.lower()} first: {PROG} {name} {word} [options]")
    return made.parse_known_args(list(argv))


def _of_talk(
    made: argparse.ArgumentParser, name: str, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """The same of a command that talks to a running gateway. It takes no settings but their file,
    so that no word of a question is taken for the value of one."""
    if name == "chat":
        text = "the model (default: one that is loaded)"
        made.add_argument("model", nargs="?", metavar="MODEL", help=text)
        text = "the question; without one, that of the input, or a conversation begins"
        made.add_argument("question", nargs="?", metavar="QUESTION", help=text)
        made.add_argument("--system", metavar="TEXT", help="instructions for the model")
    text = "address of the gateway (default: that of its settings, http://127.0.0.1:8081)"
    made.add_argument("--url", default="", metavar="URL", help=text)
    text = f"file with your API key (default: the variable {ENV_PREFIX}API_KEY)"
    made.add_argument("--key-file", metavar="FILE", help=text)
    made.add_argument("--config", metavar="FILE", help="settings file of the gateway")
    own = made.parse_args(list(argv))
    return own, ["--config", own.config] if own.config else []
