"""The [[model]] tables of the settings file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.config import ModelConfig, Settings, SettingsError, load
from proxy.config.checks import programs
from proxy.config.models import MAX_FILES, read, words

COMMAND = "llama-server --port ${PORT} -m x.gguf"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no models are started there")


def loaded(tmp_path: Path, text: str, *flags: str) -> Settings:
    file = tmp_path / "slotproxy.toml"
    file.write_text(text)
    return load(["--config", str(file), *flags], {})


def test_model_becomes_a_backend_of_its_name(tmp_path: Path) -> None:
    text = f"""
        [[model]]
        name = "qwen"
        command = '{COMMAND}'
        aliases = ["q", "small"]
        ttl = 300
        slots = 4
        environment = {{ CUDA_VISIBLE_DEVICES = "0" }}
        [[model]]
        name = "whisper"
        command = ["server", "--port", "${{PORT}}", "-m", "a b.gguf"]
    """
    settings = loaded(tmp_path, text)
    qwen, whisper = settings.backends
    assert (qwen.name, qwen.model, qwen.slots, qwen.address) == ("qwen", "qwen", 4, "model:qwen")
    assert qwen.launch is not None
    assert qwen.launch.command == ("llama-server", "--port", "${PORT}", "-m", "x.gguf")
    assert qwen.launch.ttl == 300.0
    assert whisper.launch is not None
    assert whisper.launch.command[-1] == "a b.gguf"
    assert settings.llama_api == ()
    assert not settings.is_default


def test_server_of_another_api_has_ten_places_or_as_many_as_the_table_says(tmp_path: Path) -> None:
    tables = "\n".join(
        f"[[model]]\nname = '{name}'\nkind = 'http'\ncommand = 'whisper-server ${{PORT}}'\n{more}"
        for name, more in (("a", ""), ("b", "concurrency = 1"), ("c", "server_model = 'large'"))
    )
    assert [backend.slots for backend in loaded(tmp_path, tables).backends] == [10, 1, 10]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"command": COMMAND}, "number 1: .*missing required field `name`"),
        ({"name": "m"}, "'m': .*missing required field `command`"),
        ({"name": "m", "command": ""}, "'m': command: expected a program"),
        ({"name": "m", "command": "server --port 80"}, r"must contain \$\{PORT\}"),
        ({"name": "m", "command": "server '${PORT}"}, "command: No closing quotation"),
        ({"name": "m", "command": COMMAND, "ttl": -1}, r">= 0.*ttl"),
        (
            {"name": "m", "command": COMMAND, "tll": 1},
            "'m': unknown field 'tll'; did you mean 'ttl'",
        ),
        ({"nam": "m", "command": COMMAND}, "number 1: unknown field 'nam'; did you mean 'name'"),
        ({"name": "m", "cmd": COMMAND}, "'m': unknown field 'cmd'; did you mean 'command'"),
        (
            {"name": "m", "checkEndpoint": "/"},
            "unknown field 'checkEndpoint'; did you mean 'check'",
        ),
        (
            {"name": "m", "quantum": "/"},
            "unknown field 'quantum': expected one of name, command, al",
        ),
        ({"name": "m", "command": COMMAND, "check": "health"}, "check: expected a path"),
        ({"name": "m\n", "command": COMMAND}, "control character"),
        ({"name": "m" * 201, "command": COMMAND}, "length <= 200"),
        ({"name": "m", "command": [*words(COMMAND), "\0"]}, "NUL"),
        ({"name": "m", "command": COMMAND, "memory": "4 apples"}, "memory: expected a size"),
        ({"name": "m", "command": COMMAND, "environment": {"A=B": "c"}}, "environment: 'A=B'"),
        ({"name": "m", "command": COMMAND, "kind": "vllm"}, "kind"),
        ({"name": "m", "command": COMMAND, "url": "127.0.0.1:80"}, "url: expected an address"),
        (
            {"name": "m", "command": COMMAND, "unloads": ["x"]},
            "beside: there is no model 'x'",
        ),
        ({"name": "m", "command": COMMAND, "server_model": "x"}, 'needs kind = "openai"'),
        ({"name": "m", "command": COMMAND, "concurrency": -1}, ">= 0"),
        ({"name": "m", "command": COMMAND, "strip": ["model"]}, "model cannot be changed"),
        ({"name": "m", "command": COMMAND, "set": {"stream": True}}, "stream cannot be changed"),
        ({"name": "m", "command": COMMAND, "set_by_alias": {"n": {}}}, "'n' is not one of the al"),
        ({"name": "m", "command": COMMAND, "macros": {"PORT": 1}}, "PORT is reserved"),
    ],
)
def test_wrong_model_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read([fields])


def test_names_and_aliases_are_unique() -> None:
    first = {"name": "a", "command": COMMAND, "aliases": ["b"]}
    with pytest.raises(ValueError, match="two models have the name or alias 'b'"):
        read([first, {"name": "b", "command": COMMAND}])


@pytest.mark.parametrize(
    "fields", [{"environment": {"PORT": "${PORT}"}}, {"url": "http://127.0.0.1:9"}]
)
def test_port_may_be_elsewhere_than_in_the_command(fields: dict[str, Any]) -> None:
    (model,) = read([{"name": "m", "command": "serve", **fields}])
    assert model.command == ("serve",)
    assert model.url == fields.get("url", "http://127.0.0.1:${PORT}")


@pytest.mark.parametrize(("slots", "concurrency", "places"), [(4, 2, 2), (2, 4, 2), (0, 3, 0)])
def test_concurrency_bounds_the_slots(slots: int, concurrency: int, places: int) -> None:
    model = ModelConfig(name="m", command=(), slots=slots, concurrency=concurrency)
    assert model.places == places


def test_several_processes_are_refused(tmp_path: Path) -> None:
    text = f"[[model]]\nname = 'm'\ncommand = '{COMMAND}'"
    for flags in (["--state", "redis://127.0.0.1:1/0"], ["--workers", "2"]):
        with pytest.raises(SettingsError, match="model: models are started by a single process"):
            loaded(tmp_path, text, *flags)


def test_command_of_several_lines_is_split_like_a_shells() -> None:
    assert words("a \\\n  --b 'c d' \\\n -e") == ("a", "--b", "c d", "-e")


def test_command_and_environment_are_not_shown() -> None:
    assert repr(ModelConfig(name="m", command=("a", "--api-key", "k"))) == "ModelConfig('m')"


def folder(tmp_path: Path, *names: str) -> Path:
    made = tmp_path / "models"
    made.mkdir()
    for name in names:
        (made / name).touch()
    return made


def test_every_gguf_of_a_folder_is_a_model(tmp_path: Path) -> None:
    names = ["b.gguf", "a.gguf", "mmproj-a.gguf", "c.txt"]
    names += ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"]
    made = folder(tmp_path, *names)
    server = "llama-server -c 8192"
    settings = load(["--models-dir", str(made), "--llama-server", server, "--models-ttl", "60"], {})
    assert [backend.name for backend in settings.backends] == ["a", "b", "big"]
    launch = settings.backends[2].launch
    assert launch is not None
    path = f"{made}/big-00001-of-00002.gguf"
    words_ = f"{server} -m {path} --host 127.0.0.1 --port ${{PORT}}"
    assert launch.command == tuple(words_.split())
    assert launch.ttl == 60


def commands(made: Path) -> dict[str, str]:
    """The files of each model's command, within the folder."""
    models = load(["--models-dir", str(made), "--llama-server", "s"], {}).model
    return {m.name: " ".join(m.command[1:-4]).replace(f"{made}/", "") for m in models}


def test_folder_of_files_that_belong_together_is_a_model(tmp_path: Path) -> None:
    made = folder(tmp_path, "a.gguf", "mmproj-a.gguf")
    for inner, names in {
        "eyes": ["text.gguf", "mmproj-F32.gguf", "mmproj-F16.gguf"],
        "parts": ["p-00001-of-00002.gguf", "p-00002-of-00002.gguf"],
        "two": ["x.gguf", "y.gguf", "mmproj.gguf"],
        "none": ["mmproj.gguf", "readme.txt"],
    }.items():
        (made / inner).mkdir()
        for name in names:
            (made / inner / name).touch()
    (made / "eyes" / "deeper").mkdir()
    (made / "eyes" / "deeper" / "z.gguf").touch()
    assert commands(made) == {
        "a": "-m a.gguf",
        "eyes": "-m eyes/text.gguf --mmproj eyes/mmproj-F16.gguf",
        "parts": "-m parts/p-00001-of-00002.gguf",
        "two/x": "-m two/x.gguf --mmproj two/mmproj.gguf",
        "two/y": "-m two/y.gguf --mmproj two/mmproj.gguf",
    }


def test_table_replaces_the_file_of_its_name(tmp_path: Path) -> None:
    made = folder(tmp_path, "a.gguf", "b.gguf")
    text = f"models_dir = '{made}'\n[[model]]\nname = 'a'\ncommand = '{COMMAND}'\npin = true"
    first, second = loaded(tmp_path, text).model
    assert (first.name, first.pin, second.name, second.pin) == ("a", True, "b", False)


def test_an_empty_folder_is_no_error_until_a_model_is_downloaded(tmp_path: Path) -> None:
    made = folder(tmp_path)
    before = load(["--models-dir", str(made)], {})
    assert (before.model, before.is_default) == ((), True)
    assert before.warnings == (f"--models-dir: {made} contains no .gguf file",)
    (made / ".downloads" / "a.0123").mkdir(parents=True)
    (made / ".downloads" / "a.0123" / "a.gguf").touch()
    assert load(["--models-dir", str(made)], {}).model == ()
    (made / "a").mkdir()
    (made / "a" / "a.gguf").touch()
    after = load(["--models-dir", str(made)], {})
    assert [model.name for model in after.model] == ["a"]
    assert (after.llama_api, after.warnings) == ((), ())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a" * 201 + ".gguf",), "rename this, it cannot"),
        (tuple(f"{n}.gguf" for n in range(MAX_FILES + 1)), "more than 1000 models"),
    ],
)
def test_folder_without_usable_models_is_refused(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    made = folder(tmp_path, *names)
    with pytest.raises(SettingsError, match=f"--models-dir: .*{message}"):
        load(["--models-dir", str(made)], {})


@pytest.mark.parametrize(
    ("text", "number"),
    [("24GiB", 24 << 30), ("1.5 gib", 3 << 29), ("512MiB", 512 << 20), ("7", 7), ("", 0)],
)
def test_size_is_in_binary_units(text: str, number: int) -> None:
    assert Settings(memory=text).memory_bytes == number


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.gguf").write_bytes(b"GGUF")
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("server", "trouble"),
    [
        ("/no/llama-server -c 4096", "/no/llama-server does not exist"),
        ("no-such-llama-server", "no-such-llama-server is not in PATH"),
        ("/dev/null", "/dev/null is not an executable file"),
    ],
)
def test_missing_llama_server_is_refused_at_the_start(
    models: Path, server: str, trouble: str
) -> None:
    flags = ["--models-dir", str(models), "--llama-server", server]
    with pytest.raises(SettingsError, match=f"^--llama-server: {trouble}: "):
        programs(load(flags, {}))


def test_missing_program_of_one_model_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "slotproxy.toml"
    file.write_text(
        f"[[model]]\nname = 'a'\ncommand = '{sys.executable} ${{PORT}}'\n"
        "[[model]]\nname = 'b'\ncommand = './server ${PORT}'\nfolder = '/tmp'"
    )
    (warning,) = programs(load(["--config", str(file)], {}))
    assert warning.startswith("model b: ./server does not exist: write its path")
