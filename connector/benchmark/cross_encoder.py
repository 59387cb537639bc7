"""The peer: a cross-encoder of MiniLM-L6's shape, in torch and in ONNX Runtime. Its weights are random: time is all
that is asked of it.
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
Batch = Mapping[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Peer:
    """One way of running the cross-encoder.

    Attributes:
        name: ``torch``, ``onnx`` or ``onnx_int8``.
        logits: scores float32 [pairs] of one padded batch.
    """

    name: str
    logits: Callable[[Batch], npt.NDArray[np.float32]]

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
    sizes = sorted({min(size, len(documents)) for size in (1, 2, 4, 5, 10, 20)})
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


def make_peers(threads: int) -> list[Peer]:
    """The cross-encoder in torch, in ONNX Runtime in float32, and there with int8 weights (dynamic quantization).

    Args:
        threads: of ONNX Runtime; torch takes those it is set to.

    Raises:
        MissingExtraError: onnx or ONNX Runtime is not installed.
        BackboneError: ONNX Runtime scores otherwise than torch.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "onnx", "bench") from None
    from transformers import BertConfig, BertForSequenceClassification

    model: Any = _made(BertForSequenceClassification, BertConfig, "sdpa")

    @torch.inference_mode()
    def logits(batch: Batch) -> npt.NDArray[np.float32]:
        found = model(**{name: torch.from_numpy(values) for name, values in batch.items()}).logits
        return np.asarray(found[:, 0].numpy(), dtype=np.float32)

    def in_torch(batch: Batch) -> npt.NDArray[np.float32]:
        # In the thread that does all of torch's work on several cores: a second team would slow down everything.
        return CoreSharing.of_process().run(partial(logits, batch))

    with tempfile.TemporaryDirectory(prefix="rh-bench-") as folder:
        whole, prepared, small = (Path(folder, f"{name}.onnx") for name in ("float32", "prepared", "int8"))
        _export(_made(BertForSequenceClassification, BertConfig, "eager"), whole)
        # As its documentation asks; symbolic shapes are not needed, and would need another package.
        quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(prepared, small, weight_type=QuantType.QInt8)
        sessions = {"onnx": whole.read_bytes(), "onnx_int8": small.read_bytes()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # Threads that spin after a run would take the cores of whatever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    peers = [Peer("torch", in_torch)]
    for name, definition in sessions.items():
        session = onnxruntime.InferenceSession(definition, options, providers=["CPUExecutionProvider"])
        peers.append(Peer(name, _in_onnx(session)))
    _verify(peers[0], peers[1])
    return peers


def _in_onnx(session: Any) -> Callable[[Batch], npt.NDArray[np.float32]]:
    def run(batch: Batch) -> npt.NDArray[np.float32]:
        return np.asarray(session.run(None, dict(batch))[0][:, 0], dtype=np.float32)

    return run


def _made(model_class: Any, config_class: Any, attention: str) -> Any:
    # The same weights each time, and the caller's random numbers as they were.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config_class(**SHAPE, attn_implementation=attention)).eval().requires_grad_(False)


class _Traced(torch.nn.Module):
    """The model with a mask that is computed from the inputs alone: its own would be traced as a constant."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> Any:
        seen = attention_mask[:, None, None, :].float() * torch.ones_like(attention_mask)[:, None, :, None].float()
        hidden = (1.0 - seen) * torch.finfo(torch.float32).min
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


def _verify(one: Peer, other: Peer) -> None:
    """The exported graph must do the work that it is timed for, with padding and at other lengths too."""
    batch = pair_batches(range(9), [range(20), range(7)], 2)[0]
    difference = float(np.abs(one.logits(batch) - other.logits(batch)).max())
    if difference > _TOLERANCE:
        raise BackboneError(
            f"the cross-encoder scores otherwise in ONNX Runtime than in torch (by {difference:.2g}); "
            "leave it out with --only, and report this"
        )
