"""The router: a gate for each member of the pool, from the query's embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as _to_bytes

from connector.errors import BackboneError
from connector.routing.bundle import PROBE
from connector.routing.metadata import METADATA_KEY, Activation, RouterMetadata
from connector.storage_faults import storage_mend
from connector.whole_files import replacing

__all__ = ["CLIP", "Router"]

CLIP = 4.0
"""Largest standardized entry of a query embedding: an odd query gets no gates that were never tried."""

_TENSORS = ("center", "spread", "projection", "head_embeddings", "prior", "kappa", "samples")


class Router(torch.nn.Module):
    """Learnable head embeddings, met by a projection of the query embedding.

    ``logit_h = prior_h + kappa * <head embedding h, P x>``, with x the standardized query embedding, its entries
    clipped at ``CLIP``; one that is NaN, not known, counts as the centre. Of the
    ``most_heads`` members with the best logits (ties: lower index first) the gates are relu(logit) (activation
    ``relu``), or equal ones that sum up to 1 for those whose logit is above 0 (``binary``, the paper's multi-hot);
    where none is above 0, the best member gets 1: a query always has a head.

    Attributes:
        center, spread: float32 [d]: mean and standard deviation of query embeddings.
        projection: float32 [d, rank].
        head_embeddings: float32 [members + 1, rank]; the last one is the first stage's.
        prior: float32 [members + 1].
        kappa: float32 scalar; 0: every query gets the same.
        samples: float32 [n, d], n may be 0: real query embeddings on which an export is verified.
        probes: float32 [layers, hidden] each: weights of the pool's probes.
        most_heads: P.
        activation: see above.

    Raises:
        ValueError: a size below 1, or more heads than members.
    """

    center: torch.Tensor
    spread: torch.Tensor
    kappa: torch.Tensor
    samples: torch.Tensor

    def __init__(
        self, dimension: int, rank: int, members: int, most_heads: int, activation: Activation = "relu"
    ) -> None:
        super().__init__()
        if min(dimension, rank, members, most_heads) < 1 or most_heads > members:
            raise ValueError(
                f"a router needs sizes above 0 and no more heads than members: dimension {dimension}, rank {rank}, "
                f"members {members}, most_heads {most_heads}"
            )
        self.most_heads, self.activation = most_heads, activation
        self.register_buffer("center", torch.zeros(dimension))
        self.register_buffer("spread", torch.ones(dimension))
        self.projection = torch.nn.Parameter(torch.zeros(dimension, rank))
        self.head_embeddings = torch.nn.Parameter(torch.zeros(members + 1, rank))
        self.prior = torch.nn.Parameter(torch.zeros(members + 1))
        self.register_buffer("kappa", torch.tensor(0.0))
        self.register_buffer("samples", torch.zeros(0, dimension))
        self.probes: tuple[torch.Tensor, ...] = ()

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [batch, members + 1] of float32 [batch, d]; the last is the first stage's."""
        # In double precision and then rounded: sums in any order give the same float32, so that one query gets the
        # same heads alone and in a batch, here and in ONNX Runtime, on every machine.
        known = torch.where(torch.isnan(x), self.center, x)
        standard = ((known.double() - self.center) / self.spread).clamp(-CLIP, CLIP)
        residual = standard @ self.projection.double() @ self.head_embeddings.double().T
        return (self.prior + self.kappa * residual).float()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gates float32 [batch, members], selected int64 [batch, most_heads] best first, first-stage gate float32
        [batch], of float32 [batch, d]."""
        logits = self.logits(x)
        members = logits[:, :-1]
        # topk leaves the order of ties open; a stable sort does not.
        selected = torch.sort(members, dim=1, descending=True, stable=True).indices[:, : self.most_heads]
        values = members.gather(1, selected)
        if self.activation == "relu":
            weights = torch.relu(values)
        else:
            on = (values > 0).float()
            weights = on / on.sum(dim=1, keepdim=True).clamp(min=1)
        none = values[:, :1] <= 0
        alone = torch.zeros_like(weights)
        alone[:, 0] = 1
        gates = torch.zeros_like(members).scatter(1, selected, torch.where(none, alone, weights))
        return gates, selected, torch.relu(logits[:, -1])

    def gates(
        self, embeddings: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """``forward`` without gradients, from and to numpy; the same call as ``Bundle.gates``."""
        with torch.inference_mode():
            outputs = self(torch.from_numpy(np.ascontiguousarray(embeddings, dtype=np.float32)))
        gates, selected, first_stage = (output.numpy() for output in outputs)
        return gates, selected, first_stage

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Every parameter and buffer by name, float32 on the CPU."""
        return {name: tensor.numpy() for name, tensor in self._tensors().items()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        state = self.state_dict()
        tensors = {name: state[name] for name in _TENSORS}
        tensors.update({PROBE.format(number): weights for number, weights in enumerate(self.probes)})
        return {name: tensor.detach().cpu().float().contiguous() for name, tensor in tensors.items()}

    def check(self, metadata: RouterMetadata, source: str = "the router") -> None:
        """Refuse weights that cannot be used, or that are not those which the metadata tells of.

        Raises:
            BackboneError: one line with what differs.
        """
        arrays = self.arrays()
        for name, array in arrays.items():
            # A sample may hold what is not known.
            if not (np.isfinite(array) | ((name == "samples") & np.isnan(array))).all():
                raise BackboneError(f"{source} is damaged: {name} is not finite everywhere")
        if not (arrays["spread"] > 0).all():
            raise BackboneError(f"{source} is damaged: spread is not above 0 everywhere")
        pairs = {
            "pool": (len(self.prior) - 1, len(metadata.pool)),
            "embedding.dimension": (len(self.center), metadata.embedding.dimension),
            "probes": ([len(own) for own in self.probes], [len(told.layers) for told in metadata.probes]),
            "most_heads": (self.most_heads, metadata.most_heads),
            "activation": (self.activation, metadata.activation),
            "kappa": (float(self.kappa), float(np.float32(metadata.kappa))),
        }
        for key, (own, told) in pairs.items():
            if own != told:
                raise BackboneError(f"{source} is damaged: its weights have {key} {own}, its metadata says {told}")

    def save(self, path: Path, metadata: RouterMetadata) -> None:
        """Write weights and metadata as one safetensors file; an existing one is replaced at once or not at all.
        The same router and metadata give the same bytes.

        Raises:
            BackboneError: the metadata does not fit the weights, or the file cannot be written.
        """
        self.check(metadata)
        tensors = self._tensors()
        try:
            with replacing(path) as part:
                # One key only: safetensors writes several in any order.
                part.write_bytes(_to_bytes(tensors, {METADATA_KEY: metadata.to_json()}))
        except OSError as error:
            mend = storage_mend(error, "name another file")
            raise BackboneError(f"cannot write the router {path}: {error.strerror or error}; {mend}") from None

    @classmethod
    def load(cls, path: Path) -> tuple[Router, RouterMetadata]:
        """Read a file of ``save``.

        Raises:
            BackboneError: it is missing, damaged, foreign, or of another format.
        """
        source = f"the router {path}"
        tensors = {}
        try:
            with path.open("rb"):
                pass
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get(METADATA_KEY)
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    tensors[name] = file.get_tensor(name)
        except OSError as error:
            raise BackboneError(f"cannot read {source}: {error.strerror or error}") from None
        except SafetensorError as error:
            message = " ".join(str(error).split())
            raise BackboneError(f"{source} is not a .safetensors file, or is damaged: {message}") from None
        if text is None:
            raise BackboneError(
                f"{path} is not a router: its header has no {METADATA_KEY}; rh-connector train makes one"
            )
        metadata = RouterMetadata.from_json(text, source)
        router = cls._of(tensors, metadata, source)
        router.check(metadata, source)
        return router, metadata

    @classmethod
    def _of(cls, tensors: dict[str, torch.Tensor], metadata: RouterMetadata, source: str) -> Router:
        probes = [PROBE.format(number) for number in range(len(metadata.probes))]
        if set(tensors) != {*_TENSORS, *probes}:
            raise BackboneError(f"{source} is damaged: it holds {', '.join(sorted(tensors)) or 'nothing'}")
        dimension, members = metadata.embedding.dimension, len(metadata.pool)
        rank = tensors["projection"].shape[-1] if tensors["projection"].dim() else 0
        try:
            router = cls(dimension, rank, members, metadata.most_heads, metadata.activation)
        except ValueError as error:
            raise BackboneError(f"{source} is damaged: {error}") from None
        router.samples = torch.zeros(len(tensors["samples"]) if tensors["samples"].dim() else 0, dimension)
        for name, own in router.state_dict().items():
            given = tensors[name]
            if given.shape != own.shape or given.dtype != torch.float32:
                raise BackboneError(
                    f"{source} is damaged: {name} is {given.dtype} {list(given.shape)}, not float32 {list(own.shape)}"
                )
        router.load_state_dict({name: tensors[name] for name in _TENSORS})
        router.probes = tuple(tensors[name] for name in probes)
        if any(weights.dim() != 2 or weights.dtype != torch.float32 for weights in router.probes):
            raise BackboneError(f"{source} is damaged: its probes are not float32 [layers, hidden]")
        return router
