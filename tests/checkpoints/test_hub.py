"""Models from the hub: a small server that answers as the hub does, the real client against it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from connector.checkpoints.hub import is_hub_id

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXTS = {
    "config.json": json.dumps({"model_type": "llama"}).encode(),
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
}
WEIGHTS = save({"a": torch.ones(2, 2)})
MODELS: dict[str, dict[str, bytes]] = {
    "good/model": {
        **TEXTS,
        "model.safetensors": WEIGHTS,
        "consolidated.safetensors": b"the same in another format",
        "onnx/model.safetensors": b"an export",
        "pytorch_model.bin": b"a pickle",
        "modeling_own.py": b"raise SystemExit",
    },
    "pickled/model": {**TEXTS, "pytorch_model.bin": b"a pickle"},
    "data/set": {"README.md": b"no model"},
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as ``snapshot_download`` asks for."""

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        is_call = parts[:2] == ["api", "models"]
        files = MODELS.get("/".join(parts[2:4] if is_call else parts[:2]))
        if files is None:
            self.reply(404, b"{}", with_body, {"X-Error-Code": "RepoNotFound"})
        elif is_call and "tree" in parts:
            rows = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files.items()]
            self.reply(200, json.dumps(rows).encode(), with_body, {})
        elif is_call:
            record = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            self.reply(200, json.dumps(record).encode(), with_body, {})
        else:
            content = files["/".join(parts[4:])]
            etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            self.reply(200, content, with_body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def reply(self, status: int, body: bytes, with_body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def pull(model: str, folder: Path, port: int, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``model pull`` in a process of its own: the hub's client reads its environment once."""
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "RH_"))},
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "RH_CACHE__PATH": str(folder / "cache"),
        **environment,
    }
    script = "from connector.cli import main; main()"
    command = [sys.executable, "-c", script, "--json", "model", "pull", model, *options]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


def asked(hub: ThreadingHTTPServer) -> list[str]:
    paths: list[str] = hub.asked  # type: ignore[attr-defined]
    return paths


def test_a_model_is_fetched_once(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    done = pull("good/model", tmp_path, hub.server_port)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["name"] == "good/model"
    names = sorted(file.name for file in Path(facts["path"]).iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    count = len(asked(hub))
    assert count > 0
    again = pull("good/model", tmp_path, hub.server_port)
    assert json.loads(again.stdout) == facts
    assert len(asked(hub)) == count
    # With the network away, and said so.
    assert json.loads(pull("good/model", tmp_path, 1, "--offline").stdout) == facts


def test_pickled_weights_are_refused(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    done = pull("pickled/model", tmp_path, hub.server_port)
    assert done.returncode == 4
    assert "no safetensors weights" in done.stderr
    assert "Traceback" not in done.stderr
    assert not any("pytorch_model" in path for path in asked(hub))


@pytest.mark.parametrize(
    ("model", "reason"), [("no/such-model", "the hub has no model no/such-model"), ("data/set", "not a model in")]
)
def test_what_is_no_model(model: str, reason: str, hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    done = pull(model, tmp_path, hub.server_port)
    assert done.returncode == 4
    assert reason in done.stderr


@pytest.mark.parametrize("how", ["option", "environment"])
def test_offline_asks_nobody(how: str, hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    options = ("--offline",) if how == "option" else ()
    environment = {} if how == "option" else {"HF_HUB_OFFLINE": "1"}
    done = pull("good/model", tmp_path, hub.server_port, *options, **environment)
    assert done.returncode == 4
    assert "rh-connector model pull good/model" in done.stderr
    assert asked(hub) == []


@pytest.mark.parametrize("variable", [False, True])
def test_a_cache_that_cannot_be_written_is_no_error(variable: bool, hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    pull("good/model", tmp_path, hub.server_port)
    cache = tmp_path / "cannot"
    # Also root cannot make a folder below a file.
    cache.write_text("a file")
    environment = {"RH_CACHE__PATH": str(cache), **({"HF_HUB_OFFLINE": "1"} if variable else {})}
    done = pull("good/model", tmp_path, hub.server_port, **environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "good/model"


def test_offline_names_what_was_set(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    told = pull("good/model", tmp_path, hub.server_port, HF_HUB_OFFLINE="1").stderr
    assert "the environment variable HF_HUB_OFFLINE is set" in told and "backbone.offline" not in told
    assert "backbone.offline is set" in pull("good/model", tmp_path, hub.server_port, "--offline").stderr


def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    # Nothing listens on port 1.
    done = pull("good/model", tmp_path, 1)
    assert done.returncode == 4
    assert "cannot reach the hub" in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error")]) == 1
    assert "Traceback" not in done.stderr


def test_hub_ids() -> None:
    assert is_hub_id("Qwen/Qwen2.5-0.5B")
    for other in ("model", "a/b/c", "/a/b", "./a/b", "../b", "a/", "a b/c"):
        assert not is_hub_id(other)
