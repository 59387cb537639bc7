"""The frozen LLM, traced by torch into one ONNX graph with a door at every layer's attention."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from connector.backbone.torch_runtime.attention import AttentionPass, LayerOptions, active
from connector.backbone.torch_runtime.decoder import load_decoder
from connector.checkpoints.shape import BackboneShape
from connector.errors import BackboneError, MissingExtraError
from router_export.backbone.graph_files import COMMON, DOORS, OPSET

__all__ = ["Traced", "first_layers", "trace"]

_DOCUMENTS, _EACH, _KEYS = 3, 5, 7
Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Traced:
    """What was seen of each layer while it was traced.

    Attributes:
        scaling: factor of the logits.
        windows: sliding window in tokens, or None.
        softcap: of the logits, the same for every layer, or None.
        vocabulary: number of token ids.
    """

    scaling: tuple[float, ...]
    windows: tuple[int | None, ...]
    softcap: float | None
    vocabulary: int


def first_layers(path: Path, layers: int) -> Any:
    """The first layers of a checkpoint's decoder, in float32; LM head and all other layers are dropped.

    Raises:
        BackboneError: see ``load_decoder``.
    """
    decoder = load_decoder(path, "cpu", torch.float32).layers
    decoder.layers = decoder.layers[:layers]
    decoder.config.num_hidden_layers = layers
    return decoder


class _Doors(AttentionPass):
    """Gives away what enters each layer's attention, and takes the keys and values to attend to from outside."""

    def __init__(
        self,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        bias: Tensor,
        window_bias: Tensor,
        hidden: Mapping[int, Tensor],
    ) -> None:
        self._keys, self._values, self._hidden = keys, values, hidden
        self._bias, self._window_bias = bias, window_bias
        self.options: list[LayerOptions] = []
        self.outputs: list[Tensor] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions) -> Tensor:
        self.options.append(options)
        self.outputs.extend((self._hidden[layer], q, k, v))
        if layer == len(self._keys):
            # What comes of it is no output, and is left out of the graph.
            return q
        keys, values = self._keys[layer], self._values[layer]
        bias = self._bias if options.sliding_window is None else self._window_bias
        documents, each = bias.shape[:2]
        groups = q.shape[0] // k.shape[0]
        # Queries of a group share their keys, which are not repeated.
        grouped = (q * options.scaling).reshape(k.shape[0], groups, documents, each, k.shape[2])
        grouped = grouped.permute(2, 0, 1, 3, 4).reshape(documents, k.shape[0], groups * each, k.shape[2])
        logits = torch.matmul(grouped, keys.transpose(2, 3)).view(documents, q.shape[0], each, -1)
        if options.softcap is not None:
            logits = torch.tanh(logits / options.softcap) * options.softcap
        weights = torch.softmax(logits + bias[:, None], dim=-1)
        # Only the tokens' number may be worked out: the keys' would be taken from some other layer's.
        grouped_weights = weights.reshape(documents, k.shape[0], groups * each, -1)
        out = torch.matmul(grouped_weights, values).view(documents, q.shape[0], each, k.shape[2])
        return out.transpose(0, 1).reshape(q.shape)


class _Traceable(torch.nn.Module):
    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder
        self.options: list[LayerOptions] = []
        self._hidden: dict[int, Tensor] = {}
        for layer, module in enumerate(decoder.layers):
            module.register_forward_pre_hook(partial(self._enter, layer), with_kwargs=True)

    def _enter(self, layer: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._hidden[layer] = args[0] if args else kwargs["hidden_states"]

    def forward(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        bias: Tensor,
        window_bias: Tensor,
        ids: Tensor,
        positions: Tensor,
    ) -> list[Tensor]:
        doors = _Doors(keys, values, bias, window_bias, self._hidden)
        with active(doors):
            self.decoder(input_ids=ids.reshape(1, -1), position_ids=positions.reshape(1, -1), use_cache=False)
        self.options = doors.options
        return doors.outputs


def trace(decoder: Any, path: Path) -> Traced:
    """Write the whole decoder as one graph, ``path``, with its weights in ``path`` + ``.data``.

    Inputs: ``COMMON``, and of each layer but the last ``keys.i``, ``values.i``; outputs of each layer ``h.i``,
    ``q.i``, ``k.i``, ``v.i``: see ``connector.backbone.onnx_runtime.graphs``.

    Raises:
        MissingExtraError: onnxscript is not installed.
        BackboneError: the family cannot be exported.
    """
    config = decoder.config
    family = config.model_type
    shape = BackboneShape.of_model(config)
    kv_heads, dim = shape.kv_heads, shape.head_dim
    between = range(len(decoder.layers) - 1)
    module = _Traceable(decoder)
    example = (
        [torch.randn(_DOCUMENTS, kv_heads, _KEYS, dim) for _ in between],
        [torch.randn(_DOCUMENTS, kv_heads, _KEYS, dim) for _ in between],
        torch.zeros(_DOCUMENTS, _EACH, _KEYS),
        torch.zeros(_DOCUMENTS, _EACH, _KEYS),
        # Last: the exporter takes the number of tokens from the last input that has it, and every graph has these.
        torch.arange(_EACH).repeat(_DOCUMENTS, 1),
        torch.arange(_EACH).repeat(_DOCUMENTS, 1),
    )
    free = torch.export.Dim.DYNAMIC
    seen, tokens = [{0: free, 2: free} for _ in between], {0: free, 1: free}
    bias = {0: free, 1: free, 2: free}
    shapes = (seen, seen, bias, bias, tokens, tokens)
    inputs = [*(f"{name}.{layer}" for name in ("keys", "values") for layer in between), *COMMON]
    outputs = [f"{name}.{layer}" for layer in range(len(decoder.layers)) for name in DOORS]
    try:
        with _quiet():
            # Run once as it is: what the module notes while it is traced is lost.
            module(*example)
            options = module.options
            # Traced here: left to itself, the exporter traces with dynamo too, in two to three times the time.
            program = torch.export.export(module, example, dynamic_shapes=shapes, strict=False)
            torch.onnx.export(
                program,
                (),
                path,
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSET,
                external_data=True,
                optimize=True,
                verbose=False,
            )
    except ImportError as error:
        raise MissingExtraError(error.name or "onnxscript", "export") from None
    except Exception as error:  # whatever the exporter and its passes raise
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise BackboneError(
            f"{family} cannot be exported to ONNX ({reason}); run it in torch: set backbone.runtime to torch"
        ) from error
    if len({one.softcap for one in options}) > 1 or len({one.sliding_window for one in options} - {None}) > 1:
        raise BackboneError(
            f"{family} has layers with different windows or caps of logits and cannot be exported; "
            "set backbone.runtime to torch"
        )
    return Traced(
        tuple(float(one.scaling) for one in options),
        tuple(None if one.sliding_window is None else int(one.sliding_window) for one in options),
        options[0].softcap,
        int(config.vocab_size),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about libraries that we do not use."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
