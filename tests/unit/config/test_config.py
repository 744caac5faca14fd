"""Settings: the sources and their order, every kind of wrong value, all that the table makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounts.limiting.budgets import MOST_PRICE, Price
from proxy.config import (
    ApiKey,
    BackendConfig,
    Secret,
    Settings,
    SettingsError,
    all_rows,
    from_environment,
    load,
    table,
)
from proxy.config.checks import changed
from proxy.config.sources import REMOVED

NORMAL = ("http://a:1", "https://[::1]:1/b")
TEXTS = ("chat-prompt", "user-name", "ai-name", "system-name", "stop")
LEGACY = "\nA\\t\\\\B:"  # only \n has a meaning
SAMPLING = "--sampling temperature=0.20,top_k=40 --sampling top_k=1.0"


def wrong(*argv: str, env: dict[str, str] | None = None) -> str:
    """The message of settings that must be refused: one line."""
    with pytest.raises(SettingsError) as caught:
        load(argv, env or {})
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    def write(text: str, name: str = "slotproxy.toml") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


# -- the reference ---------------------------------------------------------------------------------


def test_defaults_equal_the_reference_scripts() -> None:
    settings = load([], {})
    assert settings == Settings()
    assert settings.chat_prompt == (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant follows the given rules no matter what.\n"
    )
    assert settings.user_name == "\nUSER: "
    assert settings.ai_name == "\nASSISTANT: "
    assert settings.system_name == "\nASSISTANT's RULE: "
    assert settings.stop == "</s>"
    assert settings.llama_api == ("http://127.0.0.1:8080", "http://127.0.0.1:9931")
    assert (settings.host, settings.port) == ("127.0.0.1", 8081)
    assert settings.api_key == ()


# -- sources and their order -----------------------------------------------------------------------


def test_flag_beats_environment_beats_file_beats_default(toml: Any) -> None:
    config = toml("port = 1\nmax_queue = 2\nslots = 3\n")
    env = {"SLOTPROXY_PORT": "10", "SLOTPROXY_MAX_QUEUE": "20"}
    settings = load(["--config", config, "--port", "100"], env)
    assert (settings.port, settings.max_queue, settings.slots) == (100, 20, 3)
    assert settings.timeout == 600


def test_config_file_is_named_by_environment_or_flag(toml: Any) -> None:
    first, second = toml("port = 1", "a.toml"), toml("port = 2", "b.toml")
    assert from_environment({"SLOTPROXY_CONFIG": first}).port == 1
    assert load(["--config", second], {"SLOTPROXY_CONFIG": first}).port == 2


def test_empty_environment_variable_counts_as_unset() -> None:
    env = {row.variable: "" for row in table()}
    assert from_environment({**env, "SLOTPROXY_CONFIG": "", "WEB_CONCURRENCY": ""}) == Settings()


def test_unrelated_environment_variables_are_ignored() -> None:
    # Kubernetes sets such for a service of that name; the tools have some too.
    env = {"SLOTPROXY_SERVICE_HOST": "10.0.0.1", "SLOTPROXY_CACHE": "/x", "PORT": "1"}
    assert from_environment(env) == Settings()


@pytest.mark.parametrize(
    ("argv", "env", "file", "name", "value"),
    [
        ("--metrics", {}, "", "metrics", True),
        ("--no-metrics", {"SLOTPROXY_METRICS": "true"}, "", "metrics", False),
        *[
            ("", {"SLOTPROXY_METRICS": text}, "", "metrics", text.lower() in ("true", "1", "on"))
            for text in ("true", "1", "On", "FALSE", "0", "off")
        ],
        ("--alias a,b --alias c,a", {}, "", "alias", ("a", "b", "c")),
        ("", {"SLOTPROXY_ALIAS": "a, b,"}, "", "alias", ("a", "b")),
        ("", {}, 'alias = ["a", "b"]', "alias", ("a", "b")),
        ("", {}, 'alias = "a,b"', "alias", ("a", "b")),
        ("", {}, "max-queue = 7", "max_queue", 7),
        ("", {}, 'data = "~/d"', "data", str(Path.home() / "d")),
        ("--llama-api http://a:1/,https://[::1]:1/b/", {}, "", "llama_api", NORMAL),
        ("--api-prefix llm/v2/", {}, "", "api_prefix", "/llm/v2"),
        ("--api-prefix /", {}, "", "api_prefix", ""),
        ("--cors-origins https://a.example/", {}, "", "cors_origins", ("https://a.example",)),
        ("--workers 1", {"WEB_CONCURRENCY": "4"}, "", "workers", 1),
        ("", {"WEB_CONCURRENCY": "4", "SLOTPROXY_WORKERS": "1"}, "", "workers", 1),
        *[(rf"--{flag} \nA\t\\B:", {}, "", flag.replace("-", "_"), LEGACY) for flag in TEXTS],
        ("--api-key=", {}, "", "keys", ()),
        (SAMPLING, {}, "", "sampler_defaults", {"temperature": 0.2, "top_k": 1}),
        ("", {}, "", "sampler_defaults", {}),
    ],
)
def test_value_is_read(
    argv: str, env: dict[str, str], file: str, name: str, value: Any, toml: Any
) -> None:
    flags = argv.split() + (["--config", toml(file)] if file else [])
    assert getattr(load(flags, env), name) == value


# -- backends --------------------------------------------------------------------------------------

TWO = """
[[backend]]
url = "http://10.0.0.1:8080/"
name = "big"
slots = 4
weight = 2
api-key = "sk-upstream"

[[backend]]
url = "http://10.0.0.2:8080"
kind = "llamacpp"
"""


def test_backend_tables_replace_the_default_address(toml: Any) -> None:
    settings = load(["--config", toml(TWO), "--slots", "2", "--ctx-size", "512"], {})
    big, small = settings.backends
    assert big == BackendConfig(
        url="http://10.0.0.1:8080",
        name="big",
        slots=4,
        weight=2.0,
        ctx_size=512,
        api_key=Secret("sk-upstream"),
    )
    assert isinstance(big.api_key, Secret)
    assert small == BackendConfig(
        url="http://10.0.0.2:8080", name="10.0.0.2:8080", kind="llamacpp", slots=2, ctx_size=512
    )


def test_named_addresses_come_before_backend_tables(toml: Any) -> None:
    settings = load(["--config", toml(TWO), "--llama-api", "http://a"], {})
    assert [backend.name for backend in settings.backends] == ["a", "big", "10.0.0.2:8080"]


# -- wrong values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--port", "x", "expected an integer of at least 0 and at most 65535, got 'x'"),
        ("--port", "65536", "got '65536'"),
        ("--port", "8081.5", "got '8081.5'"),
        ("--timeout", "0", "expected a number greater than 0 and at most a year, got '0'"),
        ("--timeout", "nan", "got 'nan'"),
        ("--timeout", "inf", "got 'inf'"),
        ("--queue-timeout", "-1", "got '-1'"),
        ("--log-level", "loud", "expected one of debug, info, warning, error, got 'loud'"),
        ("--server", "flask", "expected one of gunicorn, waitress"),
        ("--llama-api", "8080", "expected an address like http://127.0.0.1:8080"),
        ("--llama-api", "localhost", "expected an address like http://127.0.0.1:8080"),
        ("--llama-api", "ftp://a", "expected an address"),
        ("--llama-api", "http://", "expected an address"),
        ("--llama-api", "http://a:99999", "expected an address"),
        ("--llama-api", "http://[::1", "expected an address"),
        ("--llama-api", "http://a?x=1", "without query"),
        ("--llama-api", "http://a b", "spaces"),
        ("--llama-api", "", "no backend is left"),
        ("--api-prefix", "/a/../b?", "expected a path like /llm"),
        ("--cors-origins", "a example", "expected *, an origin"),
        ("--cors-origins", "https://a.example/path", "expected *, an origin"),
        ("--host", "", "expected an address to listen on"),
        ("--stop", "a\0b", "NUL"),
        *(("--memory", text, "a size like 24GiB") for text in ("24GB", "much", "1e9", "GiB")),
        ("--sampling", "temperature", "temperature: expected a number, true or false, got ''"),
        ("--sampling", "temperature=hot", "expected a number, true or false, got 'hot'"),
        ("--sampling", "temperature=-1", "temperature must be between 0 and 100"),
        ("--sampling", "temprature=1", "did you mean temperature?"),
        ("--sampling", "grammar=1", "expected NAME=VALUE"),
        ("--sampling", "top_p=true", "top_p must be a number"),
        ("--api-key-file", "/nowhere", "cannot read /nowhere"),
        ("--config", "/nowhere", "cannot read /nowhere"),
    ],
)
def test_invalid_value_error_names_its_setting(flag: str, value: str, message: str) -> None:
    said = wrong(flag, value)
    assert said.startswith(f"{flag}: ")
    assert message in said


def test_invalid_variable_or_file_line_is_named(toml: Any) -> None:
    assert wrong(env={"SLOTPROXY_PORT": "x"}).startswith("SLOTPROXY_PORT: expected")
    config = toml("port = 'x'")
    assert wrong("--config", config).startswith(f"{config}: port: expected")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "unknown setting 'prot'; did you mean 'port'?"),
        ("config = 'x'", "unknown setting 'config'"),
        ("file_keys = []", "unknown setting 'file_keys'"),
        ("port = true", "port: expected an integer"),
        ("model = 'x'", "model: expected [[model]] tables"),
        ("alias = 5", 'alias: expected a text or a list of texts, as alias = ["…"]'),
        ("alias = [5]", "alias: expected text"),
        ("metrics = 'perhaps'", "metrics: expected on or off"),
        ("port = ", "line 1: expected a value"),
        ("[[backend]]\nname = 'x'", "backend: 'x': set either url"),
        ("[[backend]]\nurl = 'x'", "number 1: url: expected an address"),
        ("[[backend]]\nurl = 'http://a'\nslot = 2", "'slot'; did you mean 'slots'?"),
        ("[[backend]]\nurl = 'http://a'\nslots = 'x'", "number 1: slots: expected an integer"),
        ("[[backend]]\nurl = 'http://a'\nweight = 0", "weight: expected a number greater than"),
        ("[[backend]]\nurl = 'http://a'\nkind = 'x'", "kind: expected one of auto, llamacpp"),
        ("[backend]\nurl = 'http://a'", "backend: expected [[backend]] tables"),
        (TWO + "[[backend]]\nurl = 'http://10.0.0.2:8080/'", "two backends have the address"),
        (TWO + "[[backend]]\nurl = 'http://b'\nname = 'big'", "two backends have the name 'big'"),
        ("[[mcp]]\nname = 'x'", "mcp: x: set command or url"),
        ("[[mcp]]\nname = 'x'\nurl = 'http://a'\ncommand = ['b']", "mcp: x: set command or url"),
        ("[[mcp]]\nname = 'x'\nurl = 'file:///a'", "mcp: x: url: expected an address"),
        ("[[mcp]]\ncommand = ['x']", "mcp: number 1: Object missing required field `name`"),
        (
            "[[mcp]]\nname = 'x'\ncmd = ['x']",
            "mcp: 'x': unknown field 'cmd'; did you mean 'command'?",
        ),
        ("mcp = 1", "mcp: expected [[mcp]] tables"),
        ("[[price]]\nprompt = -1", "price: number 1: Expected `float` >= 0.0"),
        ("[[price]]\ncompletion = nan", "Expected `float` >= 0.0"),
        (f"[[price]]\nprompt = {MOST_PRICE + 1}", "Expected `float` <= 1000000000.0"),
        ("[[price]]\nprompt = 'much'", "price: number 1: Expected `float`"),
        ("[[price]]\ninput = 1", "price: number 1: unknown field 'input'; did you mean 'prompt'?"),
        (
            "[[price]]\nmodel = 'q*'\nthinking = 1",
            "'q*': unknown field 'thinking': expected one of model, prompt, cached, completion",
        ),
        (
            "[[backend]]\nbase_url = 'http://a'",
            "backend: number 1: unknown field 'base_url'; did you mean 'url'?",
        ),
        (
            "[[route]]\nmodel = 'm'\n[[route.tiers]]\nname = 't'\nbackend = ['b']",
            "route: 'm': unknown field 'backend'; did you mean 'backends'?",
        ),
        ("[search]\nbrave = 'x'", "search: unknown field 'brave'; did you mean 'brave_key'?"),
        ("[[mcp]]\nname='x'\nurl='http://a'\n" * 2, "have the same name"),
    ],
)
def test_invalid_config_file_is_refused(toml: Any, text: str, message: str) -> None:
    config = toml(text)
    refusal = wrong("--config", config)
    assert refusal.startswith(config)
    assert message in refusal


def test_binary_config_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "the file is not UTF-8" in wrong("--config", str(path))


def test_unknown_flags_are_refused() -> None:
    assert wrong("--prot", "1") == "flags: unknown setting '--prot'; did you mean '--port'?"
    assert wrong("--port") == "--port: expected one argument"
    assert "unknown setting '--chat'" in wrong("--chat", "x")  # no abbreviations


@pytest.mark.parametrize(
    ("argv", "env", "name"),
    [
        (("--workers", "2"), {}, "--workers"),
        ((), {"SLOTPROXY_WORKERS": "2"}, "SLOTPROXY_WORKERS"),
        ((), {"WEB_CONCURRENCY": "2"}, "WEB_CONCURRENCY"),
    ],
)
def test_multiple_workers_without_state_are_refused_with_the_reason(
    argv: tuple[str, ...], env: dict[str, str], name: str
) -> None:
    said = wrong(*argv, env=env)
    assert said.startswith(f"{name}: 2 workers")
    assert "slots" in said


def test_gunicorn_is_refused_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.config.checks.sys.platform", "win32")
    assert wrong("--server", "gunicorn") == (
        "--server: gunicorn does not run on Windows; use waitress"
    )


# -- keys ------------------------------------------------------------------------------------------


def test_key_keeps_its_name_when_others_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("sk-anna\nsk-boris\n", encoding="utf-8")
    names = {key.secret: key.name for key in load(["--api-key-file", str(path)], {}).keys}
    for text in ("sk-boris\n", "# moved\n\nsk-boris priority=low\nsk-anna\n"):
        path.write_text(text, encoding="utf-8")
        for key in load(["--api-key-file", str(path)], {}).keys:
            assert key.name == names[key.secret]
    assert len(set(names.values())) == 2
    for key in load(["--api-key", "sk-boris,sk-anna"], {}).keys:
        assert key.name == names[key.secret]


def test_admins_must_be_key_names(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("ann sk-1\nsk-2\n", encoding="utf-8")
    flags = ("--api-key", "k1", "--api-key-file", str(path), "--admins")
    first, *_ = load(flags[:-1], {}).keys
    assert load([*flags, f"ann,{first.name}"], {}).admins == ("ann", first.name)
    assert "there is no key named 'bob'" in wrong(*flags, "bob")
    assert "there is no key named 'key-9'" in wrong(*flags, "key-9")
    assert "no API keys are configured" in wrong("--admins", "ann")
    path.write_text("key-1 sk-1\n", encoding="utf-8")  # a name like any other
    assert load(["--api-key-file", str(path), "--admins", "key-1"], {}).admins == ("key-1",)


def test_secrets_are_hidden_in_repr(toml: Any) -> None:
    settings = load(["--config", toml(TWO), "--api-key", "sk-hidden"], {})
    assert "sk-" not in repr(settings)
    assert "sk-" not in repr(settings.backends)
    assert "sk-" not in repr(settings.keys)
    assert str(settings.api_key[0]) == "sk-hidden"


def test_keys_have_names_groups_and_classes(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# who may\n\nann  sk-a group=red priority=high\nsk-b group=blue\n")
    settings = load(["--api-key", "k1,k2", "--api-key-file", str(path)], {})
    assert settings.keys == (
        ApiKey("key-58a61484e21f", Secret("k1")),
        ApiKey("key-aacfa43b6104", Secret("k2")),
        ApiKey("ann", Secret("sk-a"), group="red", priority="high"),
        ApiKey("key-b6c99b13277e", Secret("sk-b"), group="blue"),
    )
    assert all(isinstance(key.secret, Secret) for key in settings.keys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ann sk-1\nann sk-2\n", "the key name 'ann' is used twice"),
        ("key-58a61484e21f sk-2\n", "the key name 'key-58a61484e21f' is used twice"),
        ("ann sk-1\nbob sk-1\n", "are the same key"),
        ("ann k1\n", "are the same key"),
        ("k1\n", "is used twice"),
        ("# none yet\n", "contains no API keys"),
        ("name other sk-three\n", "line 1"),
        ("KEY priority=urgent", "line 1"),
        ("KEY on_overflow=cut", "line 1"),
        ("group=red", "line 1"),
    ],
)
def test_wrong_key_file_is_refused_without_its_keys(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    refusal = wrong("--api-key", "k1", "--api-key-file", str(path))
    assert message in refusal
    assert "sk-" not in refusal and "k1'" not in refusal


@pytest.mark.parametrize("key", ["sk-a b", "sk-ä", "sk-\n"])
def test_invalid_key_is_not_shown_in_the_error(key: str) -> None:
    assert "sk-" not in wrong("--api-key", f"{key}x")
    assert "sk-" not in wrong(f"--api-kye={key}")
    assert "sk-" not in wrong("--api-kye", "sk-secret")


def test_prices_are_read(toml: Any) -> None:
    text = f"[[price]]\nmodel = 'qwen*'\nprompt = {MOST_PRICE}\ncached = 0.05\n[[price]]\n"
    assert load(["--config", toml(text)], {}).price == (
        Price(model="qwen*", prompt=MOST_PRICE, cached=0.05),
        Price(),
    )


# -- the table -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", table(), ids=lambda row: row.name)
def test_explicit_default_equals_the_default(row: Any, toml: Any) -> None:
    """A default that --help and the settings page show can be given, in each of three ways."""
    text = row.shown_default
    if row.type is bool:
        flag = [row.flag if row.default else row.flag.replace("--", "--no-", 1)]
    else:
        flag = [f"{row.flag}={text}"]
    assert getattr(load(flag, {}), row.name) == row.default
    assert getattr(from_environment({row.variable: text}), row.name) == row.default
    quoted = text if row.item in (int, float) else f"'''{text}'''"
    assert getattr(load(["--config", toml(f"{row.name} = {quoted}")], {}), row.name) == row.default


# -- nothing crashes -------------------------------------------------------------------------------

_words = st.text(max_size=12)


@given(st.dictionaries(st.sampled_from([row.variable for row in table()]), _words, max_size=4))
def test_any_environment_gives_settings_or_a_one_line_error(env: dict[str, str]) -> None:
    try:
        settings = from_environment(env)
    except SettingsError as error:
        assert "\n" not in str(error)
    else:
        assert settings.workers == 1
        assert settings.backends


@given(st.lists(st.one_of(st.sampled_from([row.flag for row in table()]), _words), max_size=5))
def test_any_flags_give_settings_or_a_one_line_error(argv: list[str]) -> None:
    try:
        load(argv, {})
    except SettingsError as error:
        assert "\n" not in str(error)
    except SystemExit as ended:  # --help, --version, -h
        assert ended.code == 0


# -- search and tools ------------------------------------------------------------------------------


def test_mcp_servers_are_read_from_the_file(toml: Any) -> None:
    text = """
    tools = ["time", "files"]
    [[mcp]]
    name = "files"
    command = ["files-server", "--only", "a,b"]
    env = {TOKEN = "hidden-1"}
    tools = ["read"]
    [[mcp]]
    name = "far"
    url = "https://mcp.example/mcp"
    headers = {Authorization = "Bearer hidden-2"}
    """
    settings = load(["--config", toml(text)], {})
    files, far = settings.mcp
    assert files.command == ("files-server", "--only", "a,b")
    assert (files.tools, far.url) == (("read",), "https://mcp.example/mcp")
    assert "hidden" not in repr(settings)


@pytest.mark.parametrize("name", ["searxng", "brave", "tavily"])
def test_search_engine_without_address_or_key_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"--search-engine: {name} requires .*{name}.(url|key)"):
        load(["--search-engine", name], {})
    needed = {"SLOTPROXY_SEARXNG_URL": "http://127.0.0.1:1"}
    if name != "searxng":
        needed = {f"SLOTPROXY_SEARCH_{name.upper()}_KEY": "k"}
    assert load(["--search-engine", name], needed).search_engine == (name,)


def test_watched_file_is_that_of_config(tmp_path: Path) -> None:
    file = tmp_path / "slotproxy.toml"
    file.write_text("watch_config = true")
    settings = load(["--config", str(file)], {})
    assert (settings.watch_config, settings.config_file) == (True, str(file))
    with pytest.raises(SettingsError, match="--watch-config: watches the file of --config"):
        load(["--watch-config"], {})


@pytest.mark.parametrize(
    "address",
    [
        "ftp://hooks.example.org/token",
        "https:///token",
        "https://hooks.example.org:0/token",
        "https://hooks.example.org:99999/token",
        "https://me:token@hooks.example.org/",
        "https://hooks.example.org/a token",
        "https://hooks.example.org/\ntoken",
    ],
)
def test_wrong_webhook_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(SettingsError, match="expected a URL like https://hooks") as caught:
        load(["--llama-api", "http://127.0.0.1:9", "--budget-webhook", address], {})
    assert "token" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("issuer=http://id.example.org", "begins with https://"),
        ("issuer=https://id.example.org/?a=b", "without query"),
        ("issuer=https://id.example.org", r"requires client_id in the table \[oidc\]"),
        ("issuer=https://id.example.org client_id=us", "requires --api-key-file"),
        ("admins=groups", "expected CLAIM=VALUE"),
        ("allow==x", "expected CLAIM=VALUE"),
        ("colour=red", "oidc: unknown field 'colour': expected one of issuer, client_id"),
    ],
)
def test_wrong_settings_of_an_openid_provider_are_refused(
    toml: Any, keys: str, message: str
) -> None:
    pairs = [word.split("=", 1) for word in keys.split()]
    file = toml("[oidc]\n" + "\n".join(f'{name} = "{value}"' for name, value in pairs))
    with pytest.raises(SettingsError, match=message):
        load(["--llama-api", "http://127.0.0.1:9", "--config", file], {})
    if "unknown" in message:
        return
    variables = {f"SLOTPROXY_OIDC_{name.upper()}": value for name, value in pairs}
    with pytest.raises(SettingsError, match=message):
        load(["--llama-api", "http://127.0.0.1:9"], variables)


def test_removed_settings_are_refused_with_what_to_do(toml: Any) -> None:
    of_sections = {row.variable for row in all_rows() if row.section}
    for name, sentence in REMOVED.items():
        assert name not in {row.name for row in table()}
        flag = f"--{name.replace('_', '-')}"
        for words in ([flag, "1"], [f"{flag}=1"], [flag.replace("--", "--no-", 1)]):
            assert wrong(*words).endswith(f": {sentence}")
        message = wrong("--config", toml(f"{name} = 1"))
        assert message.endswith(f"slotproxy.toml: {name}: {sentence}")
        variable = f"SLOTPROXY_{name.upper()}"
        if variable not in of_sections:
            assert wrong(env={variable: "1"}) == f"{variable}: {sentence}"


def test_table_of_the_file_is_read_with_its_variables(toml: Any) -> None:
    file = toml("[agent]\nrounds = 3\ntool-timeout = 5\n[oidc]\nadmins = ['groups=ops']")
    settings = load(["--config", file], {"SLOTPROXY_AGENT_ROUNDS": "4"})
    assert (settings.agent.rounds, settings.agent.tool_timeout) == (4, 5.0)
    assert settings.oidc.admins == ("groups=ops",)
    assert "agent: rounds: expected an integer" in wrong("--config", toml("[agent]\nrounds = 0"))
    assert "agent: expected a table" in wrong("--config", toml("agent = 6"))


def test_name_of_a_backend_without_a_model_ends_with_no_slash() -> None:
    def name(**fields: Any) -> str:
        settings = Settings(llama_api=(), backend=(BackendConfig(kind="openai", **fields),))
        return settings.backends[0].name

    assert name(url="http://127.0.0.1:7401/v1") == "127.0.0.1:7401/v1"
    assert name(url="http://127.0.0.1:7401/v1/") == "127.0.0.1:7401/v1"
    assert name(url="http://127.0.0.1:7401/v1", model="m") == "127.0.0.1:7401/v1/m"


def test_environment_of_a_model_is_a_secret_by_its_names(toml: Any) -> None:
    def is_secret(name: str) -> bool:
        table = f'[[model]]\nname = "m"\ncommand = "server ${{PORT}}"\nenvironment.{name} = "x"\n'
        file = toml(table, f"{name}.toml")
        Path(file).chmod(0o644)
        return any("contains API keys" in text for text in load(["--config", file], {}).warnings)

    assert not is_secret("CUDA_VISIBLE_DEVICES") and not is_secret("OMP_NUM_THREADS")
    assert is_secret("LLAMA_API_KEY") and is_secret("HF_TOKEN") and is_secret("DB_PASSWORD")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('port = 1\nhost = "::1\nmetrics = true\n', "line 2: a quote is missing"),
        ("alias = ['a',\n'b']\nhost = '::1", "line 3: a quote is missing"),
        ('\nhost = """::1\nport = 1', "line 2: a quote is missing"),
        ("port = 1\nhost = localhost", "line 2: expected a value; a text needs quotes"),
        ("host = 127.0.0.1", "line 1: expected a value; a text needs quotes"),
        ('data = "C:\\Users"', "line 1: write \\ as"),
        ("port = 1\nalias = ['a'\nhost = '::1'", "line 2: a ] is missing"),
        ("port = 1\nport = 2", "line 2: this setting, or this table, is there a second time"),
        ("port", "line 1: Expected '=' after a key"),
    ],
)
def test_mistake_in_toml_names_the_line_in_which_it_begins(
    toml: Any, text: str, message: str
) -> None:
    config = toml(text)
    assert wrong("--config", config).startswith(f"{config}: {message}")


def test_mistake_in_toml_shows_no_value(toml: Any) -> None:
    config = toml('api_key = "sk-secret\nport = 1')
    assert "secret" not in wrong("--config", config)


def test_unknown_command_is_not_an_unknown_setting() -> None:
    assert wrong("docto").startswith("unknown command 'docto'; did you mean 'doctor'? Commands are")
    assert wrong("serve").startswith("unknown command 'serve'; the commands are init, chat")
    assert wrong("--port", "1", "sk-secret").startswith("flags: unknown setting")


def test_settings_that_only_a_restart_applies_are_named(toml: Any) -> None:
    began = load(["--port", "1"], {})
    backend = "[[backend]]\nurl = 'http://a'\n"
    config = toml(f"port = 2\nmetrics = true\n[agent]\nrounds = 3\n[[price]]\n{backend}")
    assert changed(began, load(["--config", config], {})) == [
        "port",
        "metrics",
        "agent",
        "price",
    ]
    now = load(["--port", "1", "--llama-api", "http://a", "--api-key", "sk-1", "--slots", "2"], {})
    assert changed(began, now) == []


@pytest.mark.parametrize(
    ("address", "url", "name"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("gpu.lan:8000/v1/", "http://gpu.lan:8000/v1", "gpu.lan:8000"),
        ("[::1]:8080", "http://[::1]:8080", "[::1]:8080"),
        ("https://a.example/v1/", "https://a.example/v1", "a.example"),
    ],
)
def test_an_address_needs_no_scheme_and_may_end_with_v1(address: str, url: str, name: str) -> None:
    (backend,) = load(["--llama-api", address], {}).backends
    assert (backend.url, backend.name) == (url, name)


def test_an_address_with_and_without_v1_is_the_same() -> None:
    with pytest.raises(SettingsError, match="two backends have the address"):
        load(["--llama-api", "http://a:1,http://a:1/v1"], {})


def test_aliases_are_texts_by_patterns(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[aliases]\n"claude-*" = "qwen3"\ngpt-4o = "tiny"\n')
    assert load(["--config", str(file)], {}).aliases == {"claude-*": "qwen3", "gpt-4o": "tiny"}
    file.write_text('[aliases]\n"claude-*" = 5\n')
    with pytest.raises(SettingsError, match="aliases: Expected `str`"):
        load(["--config", str(file)], {})


def test_budget_of_money_without_a_price_is_said_at_the_start(tmp_path: Path) -> None:
    keys, config = tmp_path / "keys", tmp_path / "slotproxy.toml"
    keys.write_text("ann sk-ann-0123456789 max_budget=5\n")
    keys.chmod(0o600)
    config.write_text(f'api_key_file = "{keys}"\n')
    (warning,) = load(["--config", str(config)], {}).warnings
    assert str(keys) in warning and "add a [[price]]" in warning
    config.write_text(f'api_key_file = "{keys}"\n[[price]]\nprompt = 1.0\n')
    assert load(["--config", str(config)], {}).warnings == ()
