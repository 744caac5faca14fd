"""llama-swap's configuration, read as it is. The texts are ours, the format is its own."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.__main__ import main
from proxy.config import Settings, SettingsError, load
from proxy.config.llama_swap import parse, read

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no models are started there")

# Every part of the format that is read, and some that are not.
WHOLE = """
healthCheckTimeout: 240
logLevel: warn
startPort: 9000
globalTTL: 900
unloadTimeout: 20
captureBuffer: 5
includeAliasesInList: true
sendLoadingState: true
macros:
  server: >
    /opt/llama/llama-server
    --port ${PORT}
  ctx: 8192
  options: "-c ${ctx} -np 2"
  folder: "${env.HOME}/gguf"
apiKeys:
  - "sk-one"
  - "${env.OTHER_KEY}"
models:
  small:
    cmd: |
      # the server for short answers
      ${server} ${options} \\
      -m ${folder}/${MODEL_ID}.gguf
    name: "Small one"
    description: "Answers quickly"
    aliases: [{id: tiny, name: "Tiny", unlisted: false}]
    env:
      - "CUDA_VISIBLE_DEVICES=0"
      - "EMPTY="
    ttl: -1
    concurrencyLimit: 3
    metadata: {context: "${ctx}", note: "made of ${MODEL_ID}"}
    filters:
      stripParams: "top_k, model, ,min_p"
      setParams: {temperature: 0.6, model: other}
      setParamsByID:
        "${MODEL_ID}:exact": {temperature: 0}
  large:
    macros: {ctx: 32768}
    cmd: ${server} ${options} -m ${folder}/large.gguf
    ttl: 0
    unloadTimeout: 60
    unlisted: true
    sendLoadingState: false
    checkEndpoint: none
    timeouts: {connect: 10}
  vectors:
    cmd: vllm serve org/vectors --port 9105
    proxy: http://localhost:9105/
    checkEndpoint: /ready
    useModelName: org/vectors
    cmdStop: kill -TERM ${PID}
groups:
  always: {persistent: true, swap: false, exclusive: false, members: [vectors]}
  rest: {members: [small, large]}
hooks:
  on_startup: {preload: [vectors, gone]}
peers:
  attic:
    proxy: https://attic.example.org/api
    apiKey: sk-attic
    models: [org/big, org/bigger]
profiles:
  day: {pins: {a: small}}
"""
ENVIRON = {"HOME": "/home/me", "OTHER_KEY": "sk-two"}


def loaded(tmp_path: Path, text: str, *flags: str, **environ: str) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    file.chmod(0o600)
    return load(["--config", str(file), *flags], {**ENVIRON, **environ})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return loaded(tmp_path, WHOLE)


def test_commands_are_those_that_llama_swap_would_run(settings: Settings) -> None:
    small, large, vectors = settings.model
    start = ("/opt/llama/llama-server", "--port", "${PORT}", "-c")
    assert small.command == (*start, "8192", "-np", "2", "-m", "/home/me/gguf/small.gguf")
    assert large.command == (*start, "32768", "-np", "2", "-m", "/home/me/gguf/large.gguf")
    assert vectors.command == ("vllm", "serve", "org/vectors", "--port", "9105")
    assert vectors.stop == ("kill", "-TERM", "${PID}")
    assert small.environment == {"CUDA_VISIBLE_DEVICES": "0", "EMPTY": ""}


def test_times_have_the_defaults_of_the_file(settings: Settings) -> None:
    times = [(m.ttl, m.start_timeout, m.stop_timeout) for m in settings.model]
    assert times == [(900, 240, 20), (0, 240, 60), (900, 240, 20)]


def test_server_is_asked_where_it_listens(settings: Settings) -> None:
    servers = [(m.url, m.check, m.kind, m.server_model) for m in settings.model]
    assert servers == [
        ("http://127.0.0.1:${PORT}", "", "llamacpp", ""),
        ("http://127.0.0.1:${PORT}", "", "llamacpp", ""),
        ("http://127.0.0.1:9105", "/ready", "openai", "org/vectors"),
    ]


def test_lists_and_requests_are_as_described(settings: Settings) -> None:
    small, large, _ = settings.model
    assert (small.title, small.description) == ("Small one", "Answers quickly")
    assert small.aliases == ("tiny", "small:exact")
    assert small.metadata == {"context": 8192, "note": "made of small"}
    assert small.loading_state and not large.loading_state
    assert small.list_aliases and large.list_aliases
    assert (small.strip, small.set) == (("top_k", "min_p"), {"temperature": 0.6})
    assert small.set_by_alias == {"small:exact": {"temperature": 0}}
    assert (small.concurrency, small.unlisted, large.unlisted) == (3, False, True)


def test_models_unload_what_their_groups_say(settings: Settings) -> None:
    assert [(m.pin, m.preload, m.unloads) for m in settings.model] == [
        (False, False, ("large",)),
        (False, False, ("small",)),
        (False, True, ()),
    ]
    assert settings.models_max == 0


GROUPS = """
groups:
  big: {members: [a, b]}
  small: {swap: false, exclusive: false, members: [c, d]}
  forever: {persistent: true, exclusive: false, members: [e, f]}
"""


def test_groups_are_those_of_llama_swap() -> None:
    """swap: among its members; exclusive: all other groups; persistent: not from outside. Models
    without a group are one of their own, which swaps and is exclusive."""
    models = "".join(f"  {name}: {{cmd: 'x ${{PORT}}'}}\n" for name in "abcdefgh")
    file = read(f"models:\n{models}{GROUPS}", {})
    assert {model.name: "".join(model.unloads) for model in file.values["model"]} == {
        "a": "bcdgh",
        "b": "acdgh",
        "c": "",
        "d": "",
        "e": "f",
        "f": "e",
        "g": "abcdh",
        "h": "abcdg",
    }
    assert not file.notes


# That of llama-swap's example: a set is inlined, names begin with digits, `in` is no operator.
MATRIX = """
matrix:
  vars: {g: gemma, 4q: qwen, in: mistral, v: voxtral, e: rerank, L: large, sd: painter}
  evict_costs: {v: 50}
  sets:
    llms: "g | 4q | in"
    standard: "+llms & v"
    with_rerank: "(g | 4q) & v & e"
    creative: "(g | 4q) & sd"
    full: L
"""


def test_matrix_says_what_each_model_runs_beside() -> None:
    names = "gemma qwen mistral voxtral rerank large painter other".split()
    models = "".join(f"  {name}: {{cmd: 'x ${{PORT}}'}}\n" for name in names)
    file = read(f"models:\n{models}{MATRIX}", {})
    beside = {model.name: [*map(set, model.beside)] for model in file.values["model"]}
    assert beside["gemma"] == [set(), {"voxtral"}, {"voxtral", "rerank"}, {"painter"}]
    assert beside["mistral"] == [set(), {"voxtral"}]
    assert beside["rerank"] == [{"gemma", "voxtral"}, {"qwen", "voxtral"}]
    assert beside["large"] == beside["other"] == [set()]
    assert file.models_max == 0
    assert [*file.notes] == ["not supported and ignored: matrix.evict_costs"]


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("{s: 'x & z'}", "expected names of vars"),
        ("{s: 'x and y'}", "cannot be read"),
        ("{s: 'f(x)'}", "expected names of vars"),
        ("{s: 'x &'}", "cannot be read"),
        ("{s: '((((('}", "cannot be read"),
        ("{s: '+t', t: '+s'}", "cannot be read .maximum recursion depth"),
        ("{s: " + " & ".join(["(x | y)"] * 12) + "}", "for 100 at most"),
    ],
)
def test_matrix_that_cannot_be_read_is_named(sets: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"matrix: sets: .*{words}"):
        read(f"{ONE}matrix: {{vars: {{x: a, y: b}}, sets: {sets}}}", {})


def test_keys_peers_and_log_level_are_taken(settings: Settings) -> None:
    assert [key.secret for key in settings.keys] == ["sk-one", "sk-two"]
    assert settings.log_level == "warning"
    first, second = settings.backend
    assert (first.aliases, first.model, first.kind) == (("attic/org/big",), "org/big", "openai")
    assert (second.url, second.api_key) == ("https://attic.example.org/api/v1", "sk-attic")


def test_everything_else_is_named(settings: Settings) -> None:
    (lacking,) = (warning.partition("config.yaml: ")[2] for warning in settings.warnings)
    assert lacking == (
        "not supported and ignored: hooks.on_startup.preload of the unknown model 'gone',"
        " models.*.timeouts, profiles"
    )


def test_flags_come_before_the_file(tmp_path: Path) -> None:
    bounded = loaded(tmp_path, WHOLE, "--memory", "24GiB")
    assert bounded.models_max == 0
    assert [(model.pin, model.unloads) for model in bounded.model] == [
        (False, ()),
        (False, ()),
        (True, ()),
    ]
    assert loaded(tmp_path, WHOLE, "--models-max", "0").models_max == 0
    assert loaded(tmp_path, WHOLE, "--models-max", "7").models_max == 7
    assert loaded(tmp_path, WHOLE, SLOTPROXY_LOG_LEVEL="error").log_level == "error"


ONE = "models: {a: {cmd: 'x ${PORT}'}, b: {cmd: 'x ${PORT}'}}\n"
FREE = "{swap: false, exclusive: false, members: [a, b]}"


@pytest.mark.parametrize(
    ("more", "limit", "note"),
    [
        ("", 1, "one model is loaded at once, as in llama-swap without groups; set --memory"),
        (f"groups: {{g: {FREE}}}", 0, ""),
        (f"routing: {{router: {{use: group, settings: {{groups: {{g: {FREE}}}}}}}}}", 0, ""),
        ("groups: {g: {members: [a, b]}}", 0, ""),
        ("matrix: {vars: {x: a, y: b}, sets: {s: x & y}}", 0, ""),
        (
            "routing: {router: {use: matrix, settings: {matrix: {vars: {x: a}, sets: {s: x}}}}}",
            0,
            "",
        ),
    ],
)
def test_never_more_models_are_together_than_in_llama_swap(
    more: str, limit: int, note: str
) -> None:
    file = read(ONE + more, {})
    assert file.models_max == limit
    assert note in " ".join(file.notes)


def test_model_that_llama_swap_could_not_start_is_named() -> None:
    file = read("models: {a: {cmd: serve}, b: {cmd: 'x ${PORT}'}}", {})
    assert [model.name for model in file.values["model"]] == ["b"]
    assert "models.a without ${PORT} in cmd, and without proxy" in file.notes[1]


def test_older_name_of_a_filter_is_read() -> None:
    text = "models: {a: {cmd: 'x ${PORT}', filters: {strip_params: top_k}}}"
    assert read(text, {}).values["model"][0].strip == ("top_k",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "models: expected a table"),
        ("models: [a]", "models: expected a table"),
        ("models: {a: 3}", "'a': expected a table"),
        ("models: {a: {}}", "'a': cmd: expected a command"),
        ("models: {a: {cmd: '${what} ${PORT}'}}", r"'a': unknown macro \$\{what\}"),
        ("models: {a: {cmd: '${PORT} ${env.GONE}'}}", "the environment has no variable GONE"),
        ("macros: {PORT: 1}\nmodels: {}", "PORT is reserved"),
        ("models: {a: {cmd: 'x ${PORT}', env: [A]}}", "env: expected a list of texts"),
        ("models: {a: {cmd: 'x ${PORT}', ttl: soon}}", r"got `str` - at `\$.ttl`"),
        ("models: {a: {cmd: 'x ${PORT}', aliases: b}}", r"got `str` - at `\$.aliases`"),
        ("models: {a: {cmd: 'x ${PORT}', name: [b]}}", r"got `array` - at `\$.name`"),
        (ONE + "logLevel: loud", "logLevel: expected one of"),
        (ONE + "apiKeys: ['a b']", "apiKeys: an API key may contain only"),
        (ONE + "peers: {p: {proxy: nowhere}}", "peers: 'p': expected an address"),
        (ONE + "groups: {g: 3}", r"Expected `object`, got `int` - at `\$.groups"),
        (ONE + "hooks: {on_startup: 3}", r"Expected `object`, got `int` - at `\$.hooks"),
        ("models: {a: {cmd: 'x ${PORT}', aliases: [b]}, b: {cmd: 'x ${PORT}'}}", "'b'"),
    ],
)
def test_wrong_file_says_where(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(text, {})


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each place in a document: its table or list, and its key there."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    inner = [place for key in keys for place in places(value[key])]
    return [*((value, key) for key in keys), *inner]


TEXTS = ("", "x", "${PORT}", "${MODEL_ID}", "'", "a" * 300)
TABLES: Any = ([], [[]], [None], ["a=b"], {}, {"a": {}}, {"a": [1]}, {"": ""})
VALUES = st.sampled_from([None, True, 0, -1, 1e300, float("nan"), *TEXTS, *TABLES])


@given(number=st.integers(0, 200), value=VALUES)
def test_any_value_in_any_place_is_read_or_refused(number: int, value: Any) -> None:
    document = yaml.safe_load(WHOLE)
    leaves = places(document)
    table, key = leaves[number % len(leaves)]
    table[key] = value
    with contextlib.suppress(ValueError):
        read(yaml.safe_dump(document), ENVIRON)


def test_message_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"config.yaml: line 1: expected"):
        loaded(tmp_path, "models: [")


def test_merged_tables_are_read() -> None:
    text = "models: {a: &a {cmd: 'x ${PORT}', ttl: 5}, b: {<<: *a, ttl: 6}}"
    models: Any = read(text, {}).values["model"]
    assert [(model.command, model.ttl) for model in models] == [
        (("x", "${PORT}"), 5),
        (("x", "${PORT}"), 6),
    ]


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ('cmd: whisper-server --port ${PORT} --request-path /v1 --inference-path ""', "http"),
        ("cmd: /app/sd-server --listen-port ${PORT}", "http"),
        ("cmd: python serve.py ${PORT}\n    capabilities: {in: [text], out: [image]}", "http"),
        ("cmd: python serve.py ${PORT}\n    capabilities: {out: [text, audio]}", "llamacpp"),
        ("cmd: vllm serve x --port ${PORT}", "openai"),
        ("cmd: llama-server --port ${PORT}\n    useModelName: y", "llamacpp"),
    ],
)
def test_kind_of_a_server_follows_from_its_command(tmp_path: Path, more: str, kind: str) -> None:
    settings = loaded(tmp_path, f"models:\n  m:\n    {more}\n")
    assert [model.kind for model in settings.model] == [kind]


def test_init_writes_the_same_settings_as_a_file_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    theirs, ours = tmp_path / "config.yaml", tmp_path / "slotproxy.toml"
    theirs.write_text(WHOLE)
    assert main(["init", str(ours), "--from", str(theirs)]) == 0
    assert "note: not supported and ignored: " in capsys.readouterr().out
    assert ours.stat().st_mode & 0o777 == 0o600
    before, after = (load(["--config", str(file)], {**ENVIRON}) for file in (theirs, ours))
    for name in ("model", "backend", "api_key", "log_level", "models_max"):
        assert getattr(after, name) == getattr(before, name)
    assert main(["init", str(tmp_path / "x"), "--from", str(ours)]) == 1
    assert "--from: expected a file that ends with .yaml, .yml, .ini" in capsys.readouterr().err


# YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("true", True),
        ("12", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("-1.5e3", -1500.0),
        ("'12'", "12"),
        ("!!str 12", "12"),
        # Texts to Go's YAML, though not to YAML 1.1.
        ("on", "on"),
        ("22:22", "22:22"),
        ("2026-11-23", "2026-11-23"),
        ("1_000", "1_000"),
        ("|\n  # a\n  b", "# a\nb"),
    ],
)
def test_values_have_the_types_that_go_gives_them(text: str, value: Any) -> None:
    parsed = parse(text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "line 1: expected"),
        ("a: *b", "found undefined alias"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("--- 1\n--- 2", "another document"),
        ("[a]: 1", "line 1: found unhashable key"),
        ("a: !!bool x", "this is no YAML: 'x'"),
        ("a: \x00", "are not allowed"),
        ("[" * 100_000, "maximum recursion depth"),
    ],
    ids=range(8),
)
def test_wrong_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


@given(st.text(alphabet="ab1 \n\t:-[]{}&*!<|>'\"#%@`~?,.\\\x85\u2028", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse(text)
