"""No password, key or token in anything that is printed; and credentials as files hold them work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.credentials import HIDDEN, cut, redacted, without_user
from connector.errors import SettingsError
from connector.evaluation.provenance import portable_command
from connector.sections import Settings
from connector.settings import load_settings, settings_table

MARKER = "zQ7secretpw"
# Nothing listens there.
NOWHERE = "127.0.0.1:1"
SECRET_KEYS = [setting.key for setting in settings_table() if setting.secret]
COMMANDS = {
    "settings": ["settings"],
    "settings as JSON": ["--json", "settings"],
    "search": ["search", "cats"],
    "search with tracebacks": ["--debug", "search", "cats"],
    "index": ["index", "documents.jsonl"],
    "evaluate": ["evaluate", "nothing-here"],
    "train": ["--debug", "train", "nothing-here"],
    "rerank": ["rerank", "--run", "nothing-here"],
    "serve": ["serve", "--get", "/metrics"],
    "install": ["pipeline", "install", "--default-for", "cats"],
    "install, shown only": ["pipeline", "install", "--dry-run"],
    "status": ["--debug", "pipeline", "status"],
    "uninstall": ["pipeline", "uninstall"],
    "doctor": ["doctor"],
    "doctor as JSON": ["--json", "doctor"],
    "model": ["model", "list"],
    "cache": ["cache", "status"],
}


def printed(arguments: list[str], folder: Path, before: str = "", **variables: str) -> str:
    """All that a process of its own prints, on both streams; it may do something before the command."""
    (folder / "documents.jsonl").write_text('{"_id": "1", "text": "Cats sleep."}\n')
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RH_")}
    environment |= {"RH_CONFIG": "/dev/null", "RH_CACHE__PATH": str(folder / "cache"), **variables}
    done = subprocess.run(
        [sys.executable, "-c", f"from connector.cli import main\n{before}\nmain()", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    found = done.stdout + done.stderr
    assert found, "it says something"
    return found


def ways(kind: str) -> Iterator[dict[str, str]]:
    """Every secret setting, and a URL that carries one in each of its places."""
    plain = {
        "RH_ENGINE__KIND": kind,
        "RH_ENGINE__URL": f"http://{NOWHERE}",
        "RH_ENGINE__RETRY_MS": "0",
        "RH_ENGINE__FIELDS": "text",
        "RH_WRITEBACK__SERVICE_URL": f"http://{NOWHERE}",
    }
    every = {f"RH_{key.replace('.', '__').upper()}": f"{MARKER}\n" for key in SECRET_KEYS}
    yield plain | every | {"RH_ENGINE__USERNAME": "bob"}
    yield plain | {"RH_ENGINE__URL": f"http://bob:{MARKER}@{NOWHERE}"}
    yield plain | {"RH_ENGINE__URL": f"http://bob:{MARKER}/x#@{NOWHERE}"}
    yield plain | {"RH_ENGINE__URL": f"http://{NOWHERE}/?api_key={MARKER}"}
    yield plain | {"RH_WRITEBACK__SERVICE_URL": f"http://bob:{MARKER}@{NOWHERE}"}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_prints_a_secret(name: str, tmp_path: Path) -> None:
    # One kind a command, in turns: each way is a process of its own.
    kind = ("opensearch", "elasticsearch")[list(COMMANDS).index(name) % 2]
    for variables in ways(kind):
        assert MARKER not in printed(COMMANDS[name], tmp_path, **variables)
    # The same as options, before the command.
    options = [
        part
        for variable, value in next(ways(kind)).items()
        for part in ("--set", f"{variable.removeprefix('RH_').replace('__', '.').lower()}={value}")
    ]
    assert MARKER not in printed([*options, *COMMANDS[name]], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fails",
    [
        "raise ValueError(what)",
        "thread = threading.Thread(target=int, args=[what]); thread.start(); thread.join()",
        "class Kept:\n  def __del__(self): raise ValueError(what)\nkept = Kept(); del kept",
        "logging.getLogger('x').error(what)",
        "logging.getLogger('x').error('y', exc_info=ValueError(what))",
    ],
)
def test_what_nobody_catches_is_shown_without_secrets(fails: str, tmp_path: Path) -> None:
    body = fails.replace("\n", "\n  ")
    before = (
        "import logging, threading\nimport connector.cli as program\n"
        f"def failing(*_, **__):\n  what = 'http://h/ {MARKER}'\n  {body}\n"
        "real = program.cli.main\n"
        "def both(*a, **k):\n  try: real(*a, **k)\n  finally: failing()\n"
        "program.cli.main = both"
    )
    found = printed(["settings"], tmp_path, before, RH_ENGINE__PASSWORD=MARKER)
    assert MARKER not in found and f"http://h/ {HIDDEN}" in found


@pytest.mark.parametrize("key", SECRET_KEYS)
@pytest.mark.parametrize("value", [f"{MARKER}\nx", f"{MARKER}\udcff", [[MARKER]], {"a": MARKER}, f"[{MARKER}"])
def test_a_wrong_secret_is_not_told(key: str, value: object) -> None:
    try:
        found = load_settings("/dev/null", {key: value}, {})
    except SettingsError as error:
        assert MARKER not in str(error) and key in str(error) and "\n" not in str(error)
    else:
        assert MARKER not in repr(found)


@pytest.mark.parametrize(
    "text",
    [
        f'engine:\n  password: "{MARKER}\n',
        f"engine:\n  password: *{MARKER}\n",
        f"engine:\n  password: !{MARKER} x\n",
        f"engine:\n  password: {MARKER}: x\n",
        f"engine:\n  password: [{MARKER}\n",
        f"engine: {MARKER}\n",
        f"engine: http://bob:{MARKER}@host\n",
        f"engine: {{kind: opensearch, url: 'http://bob:{MARKER}@host', username: eve}}\n",
        f"engine: {{kind: 'http://bob:{MARKER}@host'}}\n",
    ],
)
def test_a_broken_file_is_not_quoted(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "c.yaml", {}, {})
    assert MARKER not in str(caught.value)
    if "password" in text:
        assert "line " in str(caught.value), "where it is broken is told"


def test_a_command_that_is_published_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    # What other tests gave as secrets, as "key", would be hidden in the names of settings too.
    monkeypatch.setattr("connector.credentials._secrets", set())
    given = {"engine.username": "ann", "engine.password": MARKER, "serve.api_keys": f"{MARKER}2, {MARKER}3"}
    load_settings("/dev/null", given, {})
    words = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    words += ["--set", f"engine.url=https://ann:{MARKER}4@host/x", "train", "FOLDER:train"]
    for command in (portable_command(words, "FOLDER"), portable_command(words)):
        assert MARKER not in command and command.endswith("train FOLDER:train") and "engine.password=" in command


def test_white_space_around_credentials_is_cut() -> None:
    variables = {f"RH_{key.replace('.', '__').upper()}": f" \t{MARKER}\r\n" for key in SECRET_KEYS}
    found = load_settings("/dev/null", {}, variables | {"RH_ENGINE__USERNAME": "bob\n"})
    engine = found.engine
    for secret in (engine.password, engine.api_key, engine.bearer_token, *found.serve.api_keys):
        assert secret is not None and secret.get_secret_value() == MARKER
    assert engine.username == "bob"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("one", ["one"]),
        (" one, two\n", ["one", "two"]),
        ("one,", ["one"]),
        ('["one", " two "]', ["one", "two"]),
        (",", []),
        ("  ", []),
    ],
)
def test_keys_in_one_variable(text: str, keys: list[str]) -> None:
    found = load_settings("/dev/null", {}, {"RH_SERVE__API_KEYS": text})
    assert [key.get_secret_value() for key in found.serve.api_keys] == keys


def test_a_url_s_user_becomes_settings_of_its_own() -> None:
    def engine(url: str, **options: str) -> Settings:
        return load_settings("/dev/null", {"engine.kind": "opensearch", "engine.url": url, **options}, {})

    found = engine("https://bob:p%2Fw%40x@[::1]:9200/base").engine
    assert (found.url, found.username) == ("https://[::1]:9200/base", "bob")
    assert found.password is not None and found.password.get_secret_value() == "p/w@x"
    alone = engine("http://bob@host:9200").engine
    assert (alone.url, alone.username, alone.password) == ("http://host:9200", "bob", None)
    with pytest.raises(SettingsError, match=r"engine\.url names a user, and engine\.username is set to another"):
        engine("http://bob:x@host", **{"engine.username": "eve"})
    same = engine("http://bob@host", **{"engine.username": "bob", "engine.password": "pw-of-bob"}).engine
    assert same.password is not None and same.password.get_secret_value() == "pw-of-bob"
    with pytest.raises(SettingsError, match=r"engine\.url = \(secret\): a cluster's URL has no parameters"):
        engine("http://host?api_key=x")
    # An embedded index is a folder, whatever it is called.
    assert load_settings("/dev/null", {"engine.url": "./a@b?c"}, {}).engine.url == "./a@b?c"


def test_known_secrets_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests of this process have known secrets of their own.
    monkeypatch.setattr("connector.credentials._secrets", set())
    load_settings("/dev/null", {"engine.username": "ann", "engine.password": "swordfish-9"}, {})
    told = redacted(
        "Authorization: Basic YW5uOnN3b3JkZmlzaC05, password swordfish-9 at https://a:b@host/x?token=abc&k=1"
    )
    assert told == f"Authorization: Basic {HIDDEN}, password {HIDDEN} at https://host/x?token={HIDDEN}&k=1"


def test_a_secret_that_is_an_ordinary_word_leaves_the_rest_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector.credentials._secrets", {"secret", "token", "secret-2"})
    assert redacted("?token=abc and secret-2, secret") == f"?{HIDDEN}={HIDDEN} and {HIDDEN}, {HIDDEN}"


def test_what_is_no_url_is_refused_without_being_told() -> None:
    for url in (f"http://bob:{MARKER}/x#@h", f"http://h:{MARKER}", f"bob:{MARKER}@h", f"ftp://bob:{MARKER}@h"):
        with pytest.raises(ValueError, match="no URL such as") as caught:
            without_user(url)
        assert MARKER not in str(caught.value)
    assert cut(5) == 5


def test_variables_of_kubernetes_are_passed_over() -> None:
    links = {
        "RH_CONNECTOR_SERVICE_HOST": "10.0.0.1",
        "RH_CONNECTOR_SERVICE_PORT": "8080",
        "RH_CONNECTOR_SERVICE_PORT_HTTP": "8080",
        "RH_CONNECTOR_PORT": "tcp://10.0.0.1:8080",
        "RH_CONNECTOR_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "RH_CONNECTOR_PORT_8080_TCP_PROTO": "tcp",
        "RH_CONNECTOR_PORT_8080_TCP_PORT": "8080",
        "RH_CONNECTOR_PORT_8080_TCP_ADDR": "10.0.0.1",
    }
    assert load_settings("/dev/null", {}, links) == load_settings("/dev/null", {}, {})
    with pytest.raises(SettingsError, match=r"RH_SERVE_PORT is not a setting; the nearest is serve\.port"):
        load_settings("/dev/null", {}, {"RH_SERVE_PORT": "8080"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"RH_SERVE__API_KEYS": ","}, ["serve.api_keys is set and holds no key"]),
        ({"RH_SERVE__HOST": "0.0.0.0"}, ["0.0.0.0 is reachable from other machines and serve.api_keys is empty"]),
        ({"RH_SERVE__HOST": "0.0.0.0", "RH_SERVE__API_KEYS": "k"}, []),
        ({}, []),
    ],
)
def test_an_open_service_says_so(variables: dict[str, str], told: list[str]) -> None:
    from connector.cli.commands.serve import _warnings

    found = list(_warnings(load_settings("/dev/null", {}, variables)))
    assert len(found) == len(told) and all(part in line for part, line in zip(told, found, strict=True))


@pytest.mark.slow
def test_settings_show_no_secret_as_json(tmp_path: Path) -> None:
    shown = printed(["--json", "settings"], tmp_path, RH_ENGINE__PASSWORD=MARKER, RH_SERVE__API_KEYS=f"{MARKER},b")
    values = {row["key"]: row["value"] for row in json.loads(shown)}
    assert values["engine.password"] == values["serve.api_keys"] == "**********"
