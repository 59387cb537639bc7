"""The exported graphs in ONNX Runtime: a pass through the layers that goes only as far as it is asked to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from connector.backbone.onnx_runtime.folder import ROWS, ExportedBackbone, graph_name
from connector.backbone.prompt.tail import TokenIds
from connector.embedding.sessions import CPU, CUDA, SHARED, trying_cuda
from connector.errors import BackboneError, MissingExtraError
from connector.installation import this_installation

__all__ = ["Array", "LayerStates", "OnnxGraphs", "Seen", "thread_count"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LayerStates:
    """What stands at the door of a layer's attention.

    Attributes:
        hidden: float32 [1, tokens, hidden]: states that enter the layer.
        q: float32 [heads, tokens, d], after rotary embedding and norms.
        k, v: float32 [kv heads, tokens, d].
    """

    hidden: Array
    q: Array
    k: Array
    v: Array


class Seen(Protocol):
    """All keys and values that a layer's queries may see, its own among them."""

    def __call__(self, layer: int, states: LayerStates) -> tuple[Array, Array]: ...


def thread_count() -> int:
    """Threads of one call: ``OMP_NUM_THREADS`` where it is set, else the cores that this process may use."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdigit() and int(named) > 0:
        return int(named)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OnnxGraphs:
    """Sessions of one exported backbone. Thread-safe.

    Args:
        folder: of the export.
        exported: what it says.
        threads: of one call.
        device: ``cpu``, ``cuda``, or ``auto``: CUDA where this ONNX Runtime has it.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        BackboneError: a graph cannot be loaded, or CUDA is asked for and missing.
    """

    def __init__(self, folder: Path, exported: ExportedBackbone, threads: int, device: str = "cpu") -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "cpu") from None
        has_cuda = CUDA in onnxruntime.get_available_providers()
        if device == "cuda" and not has_cuda:
            raise BackboneError(
                "backbone.device = cuda: this ONNX Runtime has no CUDA; set it to cpu or auto, or run: "
                f"{this_installation().exchanging_onnx_runtime()}"
            )
        providers = [CPU] if device == "cpu" or not has_cuda else [(CUDA, SHARED), CPU]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        # One arena a graph would keep each layer's buffers for itself: 730 MB at most in place of 580.
        options.enable_cpu_mem_arena = False
        # Threads that wait for the next layer in a spin would take the cores from the one that runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            with trying_cuda(device):
                sessions = [
                    onnxruntime.InferenceSession(folder / name, options, providers=providers)
                    for name in (*map(graph_name, range(exported.layers)), ROWS)
                ]
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise BackboneError(
                f"the exported backbone in {folder} cannot be loaded: {' '.join(str(error).split())}; "
                "export again with rh-connector export --backbone"
            ) from None
        *self._layers, self._rows = sessions
        self._inputs = [[given.name for given in session.get_inputs()] for session in self._layers]
        self._exported = exported
        # CUDA may be there without a device: ONNX Runtime then takes the CPU.
        self.provider: str = self._rows.get_providers()[0]
        self.optimization: str = options.graph_optimization_level.name.removeprefix("ORT_").lower()
        self.device = "cuda" if self.provider == CUDA else "cpu"
        if device == "cuda" and self.device == "cpu":
            raise BackboneError(
                "backbone.device = cuda: ONNX Runtime could not start CUDA; look at its messages, or set it to cpu"
            )

    def run(
        self,
        ids: TokenIds,
        positions: npt.NDArray[np.int64],
        biases: Mapping[int | None, Array],
        seen: Seen,
    ) -> Iterator[tuple[int, LayerStates]]:
        """``run_each`` of one sequence: all arguments, and what ``seen`` gives, have no axis of documents."""

        def alone(layer: int, states: LayerStates) -> tuple[Array, Array]:
            keys, values = seen(layer, states)
            return keys[None], values[None]

        return self.run_each(ids[None], positions[None], {size: bias[None] for size, bias in biases.items()}, alone)

    def run_each(
        self,
        ids: TokenIds,
        positions: npt.NDArray[np.int64],
        biases: Mapping[int | None, Array],
        seen: Seen,
    ) -> Iterator[tuple[int, LayerStates]]:
        """Tokens behind documents that do not see each other, through the layers; each is run when it is asked for.

        Args:
            ids: int32 [documents, tokens].
            positions: int64 [documents, tokens].
            biases: sliding window in tokens (or None) -> float32 [documents, tokens, keys], for ``seen``.
            seen: called once a layer, when the next one is asked for; float32 [documents, kv heads, keys, d].

        Yields:
            Layer and its states, of one document's tokens behind the other's.
        """
        common: dict[str, Any] = {"ids": ids.astype(np.int64), "positions": positions}
        common.update({"bias" if size is None else "window_bias": bias for size, bias in biases.items()})
        before: dict[str, Any] = {}
        for layer, (session, inputs) in enumerate(zip(self._layers, self._inputs, strict=True)):
            given = {**common, **before}
            states = LayerStates(*_run(session, {name: given[name] for name in inputs}))
            yield layer, states
            keys, values = seen(layer, states)
            before = {
                f"h.{layer}": states.hidden,
                f"q.{layer}": states.q,
                f"keys.{layer}": keys,
                f"values.{layer}": values,
            }

    def rows(self, layer: int, q: Array, keys: Array, bias: Array, rows: Array) -> Array:
        """Averaged attention of some heads that share their keys.

        Args:
            layer: the layer.
            q: float32 [heads, tokens, d].
            keys: float32 [keys, d].
            bias: float32 [tokens, keys].
            rows: float32 [groups, tokens].

        Returns:
            float32 [heads, groups, keys].
        """
        given = {"q": q * np.float32(self._exported.scaling[layer]), "keys": keys, "bias": bias, "rows": rows}
        result: Array = _run(self._rows, given)[0]
        return result


def _run(session: Any, given: Mapping[str, Any]) -> list[Any]:
    try:
        outputs: list[Any] = session.run(None, given)
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        raise BackboneError(f"the exported backbone failed: {' '.join(str(error).split())}") from None
    return outputs
