"""What ``--ray`` says where there is no cluster, no ray, or no work for it; and that nothing loads it otherwise."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from connector.cli import cli
from connector.errors import MissingExtraError, SettingsError
from connector.evaluation.provenance import portable_command
from connector.installation import this_installation
from connector.offline.ray_cluster import ray_workers
from connector.offline.workers import worker_settings
from connector.sections import Settings
from connector.settings import load_settings


def failure(*arguments: str) -> BaseException | None:
    return CliRunner().invoke(cli, list(arguments)).exception


def test_no_command_imports_ray_without_being_asked() -> None:
    code = (
        "import sys; from connector.cli import _COMMANDS, cli\n"
        "for name in _COMMANDS: cli.get_command(None, name)\n"
        "import connector.evaluation.evaluate, connector.evaluation.whole_runs.rank_index, connector.training.train\n"
        "import connector.offline.encoding, connector.offline.ray_cluster\n"
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ray_that_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError) as told, ray_workers(Settings(), "auto"):
        pass
    command = this_installation().adding("ray")
    assert str(told.value) == f"ray is not installed; install it with: {command}" and "ray" in command


@pytest.mark.parametrize("address", ["nonsense", "ray://10.0.0.7:10001", "10.0.0.7", ":6379", "10.0.0.7:port"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    pytest.importorskip("ray")
    with (
        pytest.raises(SettingsError, match=f"--ray {address}: give auto, or HOST:PORT"),
        ray_workers(Settings(), address),
    ):
        pass


def test_an_address_where_nothing_answers_is_named() -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with (
            pytest.raises(SettingsError, match=f"--ray {address}: no Ray cluster answers there .*: ray start --head"),
            ray_workers(Settings(), address),
        ):
            pass


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    source = tmp_path / "documents.jsonl"
    source.write_text('{"_id": "1", "text": "cats"}\n')
    for arguments, told in (
        (("index", str(source), "--ray", "auto"), "--ray auto goes with --precompute"),
        (("rerank", "--ray", "auto"), "--ray goes with --run"),
        (("rerank", "--whole-index", "--queries", str(source)), "--whole-index needs --queries FILE, and --out"),
        (("rerank", "--whole-index", "--run", str(source)), "--whole-index takes no --run"),
        (("train", f"{source}:made", "--ray-workers", "2"), "--ray-workers 2 goes with --ray"),
        (("evaluate", str(tmp_path), str(source), "--out", str(source)), "of several collections, name a folder"),
        (("evaluate", str(tmp_path), "--out", str(tmp_path)), "of one collection, name a file"),
        (("evaluate", str(tmp_path), str(tmp_path)), f"two of the collections are called {tmp_path.name}"),
    ):
        error = failure(*arguments)
        assert isinstance(error, SettingsError) and told in str(error), error


def test_what_a_record_says_is_the_same_wherever_the_llm_ran() -> None:
    given = ["train", "a:train", "--ray", "10.0.0.7:6379", "--ray-workers=3", "--seed", "1", "--ray=auto"]
    assert portable_command(given) == "rh-connector train a:train --seed 1"


def test_secrets_do_not_travel(tmp_path: Path) -> None:
    router = tmp_path / "router.onnx"
    router.write_bytes(b"weights")
    given = {
        "engine.password": "hush",
        "engine.username": "rh",
        "serve.api_keys": "hush",
        "router.bundle": str(router),
        "cascade.bundle": str(tmp_path / "none.onnx"),
    }
    settings = load_settings("/dev/null", {**given, "engine.fields": "title^2,text"}, environment={})
    own, files = worker_settings(settings)
    assert "hush" not in repr([own.engine.password, own.serve.api_keys]) and own.engine.password is None
    assert own.engine.fields == settings.engine.fields and files == {router: b"weights"}
