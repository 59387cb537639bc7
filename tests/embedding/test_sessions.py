"""Sessions of the real ONNX Runtime, which may have CUDA in its list and none on the machine."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from connector.embedding.embedder import Embedder
from connector.embedding.sessions import CPU, CUDA, open_session
from tests.embedding.tiny_model import save_embedder


@pytest.fixture
def model(tmp_path: Path) -> str:
    (found,) = save_embedder(tmp_path / "tiny").rglob("*.onnx")
    return str(found)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_machine_without_a_gpu_needs_no_setting_and_gets_no_warning(
    model: str, device: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = open_session(model, onnxruntime.SessionOptions(), device)  # type: ignore[arg-type]
    wanted = CUDA if device == "auto" and CUDA in onnxruntime.get_available_providers() else CPU
    assert session.get_providers()[0] in (wanted, CPU)
    # ONNX Runtime writes to the file descriptor itself.
    assert capfd.readouterr() == ("", "")


def test_cuda_that_is_listed_and_does_not_start_leaves_it_to_the_cpu(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    # This build raises the warning that it gives for a provider that it does not have.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_session(model, onnxruntime.SessionOptions(), "auto").get_providers() == [CPU]
        with pytest.raises(UserWarning, match=CUDA):
            open_session(model, onnxruntime.SessionOptions(), "cuda")


def test_a_model_at_fault_is_an_error_whatever_runs_it(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    for device in ("auto", "cpu"):
        with pytest.raises(Exception, match="broken|protobuf|INVALID"):
            open_session(str(tmp_path / "broken.onnx"), onnxruntime.SessionOptions(), device)  # type: ignore[arg-type]


def test_an_embedding_model_is_the_same_wherever_it_may_run(model: str) -> None:
    folder = str(Path(model).parent)
    texts = ["cats sleep", "bread"]
    np.testing.assert_allclose(
        Embedder.load(folder, device="auto").documents(texts), Embedder.load(folder).documents(texts), atol=1e-3
    )


@pytest.mark.gpu
@pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu")
def test_a_gpu_runs_it(model: str) -> None:
    assert open_session(model, onnxruntime.SessionOptions(), "auto").get_providers()[0] == CUDA
