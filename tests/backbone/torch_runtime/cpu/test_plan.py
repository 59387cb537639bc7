"""What a CPU makes fast is told; and a torch that lacks it is told too, wherever somebody may look."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from connector.backbone.open_reader import open_reader
from connector.backbone.torch_runtime.cpu import linear
from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.cpu.linear import why_not_packed
from connector.backbone.torch_runtime.cpu.operations import OPERATIONS, missing_operations
from connector.backbone.torch_runtime.cpu.plan import CpuPlan, prepare
from connector.backbone.torch_runtime.decoder import load_decoder
from connector.backbone.torch_runtime.runtime import TorchRuntime
from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import main
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.service.metrics import Metrics
from tests.backbone.tiny import save_tiny
from tests.backbone.torch_runtime.packing import has_wide_products

SUBJECTS = ["number_format", "weights", "layers", "batches", "threads", "operations"]


def plan_of(folder: Path, dtype: torch.dtype) -> CpuPlan:
    model = load_decoder(folder, "cpu", dtype).layers
    heads = model.config.num_attention_heads
    head_dim = getattr(model.config, "head_dim", None) or model.config.hidden_size // heads
    return prepare(model, head_dim, CoreSharing.of_process())


class Without:
    """A namespace of torch that lacks some names, as a newer torch's may."""

    def __init__(self, namespace: Any, *names: str) -> None:
        self._namespace, self._names = namespace, names

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            raise AttributeError(f"no {name}")
        return getattr(self._namespace, name)


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch without the product of packed weights."""
    monkeypatch.setattr(torch.ops, "mkldnn", Without(torch.ops.mkldnn, "_linear_pointwise"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_falls_back_here(smollm2: Checkpoint, dtype: torch.dtype) -> None:
    plan = plan_of(smollm2.path, dtype)
    told = plan.told()
    assert list(told) == SUBJECTS
    if not torch.backends.mkldnn.is_available():
        assert "this torch has no oneDNN" in told["weights"]
        return
    assert plan.missing == ()
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert told["weights"].startswith("not packed: packed bfloat16 products fail: ")
        assert told["layers"] == "0 of 30 fused: the weights are not packed"
        return
    assert (plan.why_not_packed, plan.why_not_fused) == (None, None)
    assert plan.fused == plan.layers == 30
    assert plan.batches.most >= 256 or not has_wide_products(), plan.batches.why_alone
    assert (told["weights"], told["layers"], told["operations"]) == ("packed", "30 of 30 fused", "all there")


@pytest.mark.slow
def test_a_cpu_without_wide_products_is_as_good_in_float32_and_tells_what_bfloat16_lacks(smollm2: Checkpoint) -> None:
    if not torch.backends.mkldnn.is_available():
        # This machine is such a CPU itself.
        assert plan_of(smollm2.path, torch.float32).told()["weights"].startswith("not packed: ")
        return
    script = (
        "import json, sys, torch; from pathlib import Path; "
        "from tests.backbone.torch_runtime.cpu.test_plan import plan_of; "
        "print(json.dumps([plan_of(Path(sys.argv[1]), own).told() for own in (torch.float32, torch.bfloat16)]))"
    )
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(smollm2.path)],
        env=environment, cwd=Path(__file__).parents[4], capture_output=True, text=True, check=True,
    )  # fmt: skip
    whole, half = json.loads(done.stdout)
    assert (whole["weights"], whole["layers"], whole["operations"]) == ("packed", "30 of 30 fused", "all there")
    assert half["weights"].startswith("not packed: packed bfloat16 products fail: ")
    assert half["layers"] == "0 of 30 fused: the weights are not packed"


def test_this_torch_has_every_private_operation() -> None:
    assert len(OPERATIONS) == 5
    if torch.backends.mkldnn.is_available():
        assert missing_operations() == ()
    else:
        assert why_not_packed(torch.float32) == "this torch has no oneDNN"


def test_layers_of_another_kind_have_their_reason(tmp_path: Path) -> None:
    save_tiny("gemma2", tmp_path)
    told = plan_of(tmp_path, torch.float32).told()
    if not torch.backends.mkldnn.is_available():
        assert "this torch has no oneDNN" in told["weights"]
        return
    assert told["weights"] == "packed"
    assert told["layers"].startswith("0 of 4 fused: layer 0: ")
    # Its sizes are not whole vectors.
    assert told["batches"].startswith("each sequence by itself: sizes ")


def test_weights_in_another_format_have_their_reason(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    plan = plan_of(tmp_path, torch.float16)
    assert plan.fused == plan.batches.most == 0
    assert list(plan.told()) == SUBJECTS
    assert "not for float16" in plan.told()["weights"]
    assert plan.told()["layers"] == "0 of 4 fused: the weights are not packed"


@pytest.mark.usefixtures("lacking")
def test_a_torch_that_lacks_the_operation_answers_as_before_and_says_so(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    plan = plan_of(tmp_path, torch.float32)
    assert plan.missing == ("ops.mkldnn._linear_pointwise", "ops.mkldnn._linear_pointwise.binary")
    reason = f"not packed: torch {torch.__version__} lacks torch.ops.mkldnn._linear_pointwise"
    assert plan.told()["weights"].startswith(reason)
    runtime = TorchRuntime.load(tmp_path, device="cpu", dtype="float32")
    assert runtime.plan["weights"].startswith(reason)
    assert np.isfinite(runtime.embed([3, 4, 5], [2])).all()


def test_an_operation_that_takes_other_arguments_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not torch.backends.mkldnn.is_available():
        save_tiny("llama", tmp_path)
        assert "this torch has no oneDNN" in plan_of(tmp_path, torch.float32).told()["weights"]
        return

    class Changed(Without):
        def _reorder_linear_weight(self) -> None:
            """Takes no weight any more."""

    save_tiny("llama", tmp_path)
    monkeypatch.setattr(torch.ops, "mkldnn", Changed(torch.ops.mkldnn))
    monkeypatch.setattr(linear, "_tried", linear._tried.__wrapped__)
    told = plan_of(tmp_path, torch.float32).told()
    assert "packed float32 products fail: " in told["weights"] and "takes 1 position" in told["weights"]


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2", "lacking")
def test_the_log_metrics_and_doctor_give_the_reason(
    settings: Settings, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = f"torch {torch.__version__} lacks torch.ops.mkldnn._linear_pointwise"
    with caplog.at_level(logging.INFO, "connector.backbone"):
        reader = open_reader(settings)
    (line,) = [record.getMessage() for record in caplog.records if "runtime: torch" in record.getMessage()]
    assert f"weights: not packed: {reason}" in line and "\n" not in line

    metrics = Metrics("smollm2-135m")
    metrics.watch_plan(lambda: reader.plan)
    families = text_string_to_metric_families(metrics.exposition("text/plain")[0].decode())
    (sample,) = [one for family in families for one in family.samples if one.name == "rh_runtime_plan_info"]
    assert sample.value == 1 and sample.labels == dict(reader.plan)
    assert reason in sample.labels["weights"]

    with pytest.raises(SystemExit):
        main(["--config", "/dev/null", "--json", "--set", "backbone.dtype=float32", "doctor", "--load"])
    rows = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["plan"]["level"] == "warn" and reason in rows["plan"]["seen"]
    assert "torch" in rows["plan"]["mend"]
    # Slower, with the same answers.
    assert rows["golden query"]["level"] == "ok"


def test_a_loaded_reranker_s_plan(reranker: Reranker) -> None:
    plan = reranker.reader.plan
    assert list(plan) == ["runtime", "device", *SUBJECTS]
    assert (plan["runtime"], plan["device"], plan["number_format"]) == ("torch", "cpu", "float32")
    assert plan["threads"] == str(CoreSharing.of_process().cores)
