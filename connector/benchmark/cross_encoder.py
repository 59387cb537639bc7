"""The peer: a cross-encoder of MiniLM-L6's shape, in torch and in ONNX Runtime. Its weights are random: time is all
that is asked of it. Where the LLM runs on a GPU, so does the peer.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.errors import BackboneError, MissingExtraError

__all__ = ["INPUTS", "SHAPE", "Peer", "best_batch", "make_peers", "pair_batches"]

SHAPE = {
    "vocab_size": 30_522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "num_labels": 1,
}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_CLS, _SEP, _FIRST_WORD = 101, 102, 1000
_LONGEST = 512
_TOLERANCE = 1e-4
# Products of float32 on a GPU may be rounded as TensorFloat-32 is.
_TOLERANCE_GPU = 1e-2
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
Batch = Mapping[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Peer:
    """One way of running the cross-encoder.

    Attributes:
        name: ``torch``, ``onnx``, ``onnx_int8`` (on a CPU) or ``onnx_float16`` (on a GPU).
        logits: scores float32 [pairs] of one padded batch.
        runs_on: ``cpu`` or ``cuda``.
    """

    name: str
    logits: Callable[[Batch], npt.NDArray[np.float32]]
    runs_on: str = "cpu"

    def score(self, query: Sequence[int], documents: Sequence[Sequence[int]], batch: int) -> npt.NDArray[np.float32]:
        """Score a window, so many pairs at a time: float32 [documents], shortest pair first."""
        return np.concatenate([self.logits(each) for each in pair_batches(query, documents, batch)])


def pair_batches(query: Sequence[int], documents: Sequence[Sequence[int]], batch: int) -> list[Batch]:
    """[CLS] query [SEP] document [SEP], sorted by length and padded within each batch.

    Token ids of another vocabulary are folded into this one's: their time is the same. A pair ends after 512 tokens.
    """

    def folded(ids: Sequence[int]) -> list[int]:
        return [_FIRST_WORD + at % (SHAPE["vocab_size"] - _FIRST_WORD) for at in ids]

    asked = folded(query)[: _LONGEST // 2]
    room = _LONGEST - len(asked) - 3
    pairs = sorted((folded(document)[:room] for document in documents), key=len)
    batches: list[Batch] = []
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        longest = len(asked) + 3 + len(part[-1])
        arrays = {name: np.zeros((len(part), longest), dtype=np.int64) for name in INPUTS}
        for at, document in enumerate(part):
            ids = [_CLS, *asked, _SEP, *document, _SEP]
            arrays["input_ids"][at, : len(ids)] = ids
            arrays["attention_mask"][at, : len(ids)] = 1
            arrays["token_type_ids"][at, len(asked) + 2 : len(ids)] = 1
        batches.append(arrays)
    return batches


def best_batch(peer: Peer, query: Sequence[int], documents: Sequence[Sequence[int]]) -> int:
    """The batch size with which a peer scores this window fastest, so that it is compared at its best."""
    sizes = sorted({min(size, len(documents)) for size in (1, 2, 4, 5, 10, 20, 50, 100)})
    peer.score(query, documents[: sizes[-1]], sizes[-1])
    taken = {}
    for size in sizes:
        runs = []
        for _ in range(2):
            started = time.perf_counter()
            peer.score(query, documents, size)
            runs.append(time.perf_counter() - started)
        taken[size] = min(runs)
    return min(taken, key=lambda size: taken[size])


def make_peers(threads: int, device: str = "cpu") -> list[Peer]:
    """The cross-encoder in torch, in ONNX Runtime in float32, and there in a smaller number format.

    That is int8 weights (dynamic quantization) on a CPU, and float16 on a GPU, which has no such products of int8.
    ONNX Runtime without CUDA runs on the CPU, and says so (``Peer.runs_on``).

    Args:
        threads: of ONNX Runtime; torch takes those it is set to.
        device: ``cpu`` or ``cuda``.

    Raises:
        MissingExtraError: onnx or ONNX Runtime is not installed.
        BackboneError: ONNX Runtime scores otherwise than torch.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "onnx", "bench") from None

    model = _made("sdpa").to(device)

    @torch.inference_mode()
    def logits(batch: Batch) -> npt.NDArray[np.float32]:
        found = model(**{name: torch.from_numpy(values).to(device) for name, values in batch.items()}).logits
        return np.asarray(found[:, 0].cpu().numpy(), dtype=np.float32)

    def in_torch(batch: Batch) -> npt.NDArray[np.float32]:
        # In the thread that does all of torch's work on several cores: a second team would slow down everything.
        return CoreSharing.of_process().run(partial(logits, batch))

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # Threads that spin after a run would take the cores of whatever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    has_cuda = device == "cuda" and _CUDA in onnxruntime.get_available_providers()
    providers = [_CUDA, _CPU] if has_cuda else [_CPU]
    peers = [Peer("torch", in_torch, device)]
    with tempfile.TemporaryDirectory(prefix="rh-bench-") as folder:
        for name, path in _exported(Path(folder), device).items():
            session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=providers)
            # Where CUDA's libraries do not load, a session of the CPU comes back without an error.
            peers.append(Peer(name, _in_onnx(session), "cuda" if _CUDA in session.get_providers() else "cpu"))
    _verify(peers[0], peers[1], _TOLERANCE if device == "cpu" else _TOLERANCE_GPU)
    return peers


def _exported(folder: Path, device: str) -> dict[str, Path]:
    """Graphs by the peer's name, the one in float32 first."""
    whole = folder / "float32.onnx"
    _export(_made("eager"), whole)
    small = folder / "small.onnx"
    if device != "cpu":
        _export(_made("eager").half(), small)
        return {"onnx": whole, "onnx_float16": small}
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    # As its documentation asks; symbolic shapes are not needed, and would need another package.
    quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
    quantize_dynamic(prepared, small, weight_type=QuantType.QInt8)
    return {"onnx": whole, "onnx_int8": small}


def _in_onnx(session: Any) -> Callable[[Batch], npt.NDArray[np.float32]]:
    def run(batch: Batch) -> npt.NDArray[np.float32]:
        return np.asarray(session.run(None, dict(batch))[0][:, 0], dtype=np.float32)

    return run


def _made(attention: str) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    # The same weights each time, and the caller's random numbers as they were.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape: dict[str, Any] = {**SHAPE, "attn_implementation": attention}
        model: Any = BertForSequenceClassification(BertConfig(**shape))
        return model.eval().requires_grad_(False)


class _Traced(torch.nn.Module):
    """The model with a mask that is computed from the inputs alone: its own would be traced as a constant."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> Any:
        dtype = self.model.dtype
        seen = attention_mask[:, None, None, :].to(dtype) * torch.ones_like(attention_mask)[:, None, :, None].to(
            dtype
        )
        hidden = (1.0 - seen) * torch.finfo(dtype).min
        return self.model(input_ids=input_ids, attention_mask=hidden, token_type_ids=token_type_ids).logits


def _export(model: Any, path: Path) -> None:
    example = tuple(torch.ones(2, 8, dtype=torch.long) for _ in INPUTS)
    free = {0: "pairs", 1: "tokens"}
    with warnings.catch_warnings():
        # Of the tracer, about shapes that are the same in every call.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Traced(model),
            example,
            str(path),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes={**dict.fromkeys(INPUTS, free), "logits": {0: "pairs"}},
            opset_version=17,
            dynamo=False,
        )


def _verify(one: Peer, other: Peer, tolerance: float) -> None:
    """The exported graph must do the work that it is timed for, with padding and at other lengths too."""
    batch = pair_batches(range(9), [range(20), range(7)], 2)[0]
    difference = float(np.abs(one.logits(batch) - other.logits(batch)).max())
    if difference > tolerance:
        raise BackboneError(
            f"the cross-encoder scores otherwise in ONNX Runtime than in torch (by {difference:.2g}); "
            "leave it out with --only, and report this"
        )
