"""The bundle: a router as one ONNX file with its metadata, run by ONNX Runtime.

A file is an ONNX model whose last 76 bytes are one more entry of its metadata, ``digest``: the sha256 of all bytes
before it. Protobuf allows fields to be appended, so it stays a valid ONNX model; and nothing of a file that was cut
or changed is ever looked at.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from connector.embedding.sessions import CUDA, Device, open_session
from connector.errors import BackboneError, MissingExtraError
from connector.heads.likelihood import LikelihoodSignal
from connector.heads.probe import ProbeSignal
from connector.heads.readouts import HeadSignal
from connector.heads.routes import Absolute, Route
from connector.heads.signals import Signal
from connector.heads.similarity import SimilaritySignal
from connector.installation import this_installation
from connector.routing.metadata import METADATA_KEY, ProbeMember, RouterMetadata, SimilarityMember

__all__ = ["INPUT", "OUTPUTS", "PROBE", "Bundle", "Provider", "seal", "shipped_bundle"]

Provider = Literal["cpu", "cuda"]
"""What runs a bundle."""
INPUT = "query_embedding"
OUTPUTS = ("gates", "selected", "first_stage_gate")
PROBE = "probe_{}"
"""Output with the weights of a probe, by its number among the pool's: float32 [layers, hidden]; constant."""

# ModelProto.metadata_props is field 14; its entry has key (field 1) and value (field 2), 64 hexadecimal digits here.
_TAIL = b"\x72\x4a\x0a\x06digest\x12\x40"
_HEX = 64


def seal(model: bytes) -> bytes:
    """Append the digest to a serialized ONNX model."""
    return model + _TAIL + hashlib.sha256(model).hexdigest().encode()


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle; may be used by several threads at once.

    Attributes:
        path: the file.
        metadata: what it says about itself, checked.
        digest: sha256 of the file's bytes before the digest, hexadecimal.
        size: of the file, in bytes.
        provider: what runs it.
        signals: the pool.
    """

    path: Path
    metadata: RouterMetadata
    digest: str
    size: int
    provider: Provider
    signals: tuple[Signal, ...] = field(repr=False)
    _session: Any = field(repr=False, compare=False)

    @classmethod
    def load(cls, path: Path, provider: Device = "cpu") -> Bundle:
        """Read, check and try a bundle.

        Args:
            path: the file.
            provider: what runs it; from ``cuda`` there is no falling back to the CPU, from ``auto`` there is.

        Raises:
            MissingExtraError: ONNX Runtime is not installed.
            BackboneError: the file is missing, damaged, foreign or of another format, or the provider is missing.
        """
        data = _read(path)
        digest = _checked_digest(data, path)
        session = _session(data, path, provider)
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise BackboneError(f"{path} is not a router bundle: it has no {METADATA_KEY} metadata")
        metadata = RouterMetadata.from_json(text, f"the router bundle {path}")
        _check_graph(session, metadata, path)
        taken: Provider = "cuda" if CUDA in session.get_providers() else "cpu"
        bundle = cls(path, metadata, digest, len(data), taken, _signals(session, metadata, path), session)
        # Declared shapes are only claims.
        bundle.gates(np.zeros((2, metadata.embedding.dimension), dtype=np.float32))
        return bundle

    def gates(
        self, embeddings: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Gates of many queries; the same as one at a time.

        Args:
            embeddings: float32 [n, d]; NaN where unknown.

        Returns:
            Gates float32 [n, members], 0 for those that are not read; the P best members int64 [n, P], best first;
            the first stage's gates float32 [n].

        Raises:
            BackboneError: the embeddings have another shape or type or are infinite, or the router fails on them.
        """
        dimension, pool = self.metadata.embedding.dimension, len(self.metadata.pool)
        if embeddings.ndim != 2 or embeddings.shape[1] != dimension or embeddings.dtype != np.float32:
            raise BackboneError(
                f"the router bundle {self.path} takes query embeddings float32 [n, {dimension}], not "
                f"{embeddings.dtype} {list(embeddings.shape)}"
            )
        if np.isinf(embeddings).any():
            raise BackboneError(f"the router bundle {self.path} was given a query embedding that is infinite")
        number = len(embeddings)
        try:
            outputs = self._session.run(list(OUTPUTS), {INPUT: np.ascontiguousarray(embeddings)})
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise BackboneError(f"the router bundle {self.path} failed: {_one_line(error)}") from None
        gates, selected, first_stage = outputs
        shapes = [(number, pool), (number, self.metadata.most_heads), (number,)]
        if [output.shape for output in outputs] != shapes:
            raise BackboneError(f"the router bundle {self.path} gave outputs of other shapes than its metadata says")
        if not (np.isfinite(gates).all() and np.isfinite(first_stage).all()):
            raise BackboneError(f"the router bundle {self.path} gave gates that are not finite")
        return gates, selected, first_stage

    def route(self, embedding: npt.NDArray[np.float32]) -> Route:
        """The heads of one query.

        Args:
            embedding: float32 [d]; NaN where unknown.

        Raises:
            BackboneError: see ``gates``.
        """
        gates, selected, first_stage = self.gates(embedding[None])
        chosen = [int(at) for at in selected[0] if gates[0, at] > 0]
        return self._route(chosen, [float(gates[0, at]) for at in chosen], float(first_stage[0]))

    def static_route(self) -> Route:
        """The same heads for every query: the static set around which the router was made."""
        static = self.metadata.static
        return self._route(static["members"], static["gates"], static["first_stage"])

    def _route(self, members: list[int], gates: list[float], first_stage: float) -> Route:
        scales, told = self.metadata.scales, self.metadata.absolute
        absolute = None
        if told is not None:
            absolute = Absolute(tuple(told.means[at] for at in members), told.bias, told.spread)
        return Route(
            tuple(self.signals[at] for at in members),
            tuple(gates),
            first_stage,
            tuple(scales[at] for at in members),
            absolute,
            self.metadata.shown,
        )


def shipped_bundle(model: str, layout: str, embedder: str | None = None) -> Path | None:
    """The router that the package ships for a catalogue model and layout, or None.

    Args:
        model: its name in the catalogue.
        layout: that it is for.
        embedder: the embedding model that it weighs beside the LLM; None: it weighs none.
    """
    name = f"{model}.{layout}.onnx" if embedder is None else f"{model}.{embedder}.{layout}.onnx"
    path = Path(str(resources.files("connector.routing"))) / "shipped" / name
    return path if path.is_file() else None


def _read(path: Path) -> bytes:
    if path.suffix == ".json":
        raise BackboneError(
            f"{path} is a head set, not a router bundle; use it with router.mode static, or set router.bundle to an "
            ".onnx file"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BackboneError(
            f"cannot read the router bundle {path}: {error.strerror}; make one with: rh-connector train"
        ) from None
    if not data:
        raise BackboneError(f"the router bundle {path} is empty; copy or export it again")
    return data


def _checked_digest(data: bytes, path: Path) -> str:
    """The digest that stands in the file, after it was found right."""
    body, tail = data[: -len(_TAIL) - _HEX], data[-len(_TAIL) - _HEX :]
    digest = hashlib.sha256(body).hexdigest()
    if tail == _TAIL + digest.encode():
        return digest
    if tail.startswith(_TAIL) or METADATA_KEY.encode() in data:
        raise BackboneError(f"the router bundle {path} is damaged (its digest is wrong); copy or export it again")
    raise BackboneError(f"{path} is not a router bundle, or the start of one; make one with: rh-connector export")


def _session(data: bytes, path: Path, provider: Device) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "gpu" if provider == "cuda" else "cpu") from None
    available = onnxruntime.get_available_providers()
    if provider == "cuda" and CUDA not in available:
        raise BackboneError(
            f"router.provider is cuda, but this ONNX Runtime has no {CUDA}, only {', '.join(available)}; "
            f"set it to cpu, or run: {this_installation().exchanging_onnx_runtime()}"
        )
    options = onnxruntime.SessionOptions()
    # A router is a few small products: threads cost more than they save, and requests run beside each other.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    try:
        session = open_session(data, options, provider)
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        raise BackboneError(f"{path} is not a model that ONNX Runtime can run: {_one_line(error)}") from None
    taken = session.get_providers()
    if provider == "cuda" and CUDA not in taken:
        raise BackboneError(
            f"router.provider is cuda, but ONNX Runtime could not start {CUDA} and took {', '.join(taken)}; "
            "check CUDA and cuDNN, or set it to cpu"
        )
    return session


def _check_graph(session: Any, metadata: RouterMetadata, path: Path) -> None:
    pool, most = len(metadata.pool), metadata.most_heads
    inputs = [(INPUT, "tensor(float)", [metadata.embedding.dimension])]
    outputs = [
        (OUTPUTS[0], "tensor(float)", [pool]),
        (OUTPUTS[1], "tensor(int64)", [most]),
        (OUTPUTS[2], "tensor(float)", []),
    ]
    constant = {PROBE.format(number) for number in range(len(metadata.probes))}
    for kind, wanted, nodes in (
        ("inputs", inputs, session.get_inputs()),
        ("outputs", outputs, [node for node in session.get_outputs() if node.name not in constant]),
    ):
        # The first dimension is the batch; it must be open, which is a name or None.
        found = [(node.name, node.type, list(node.shape)) for node in nodes]
        fits = len(found) == len(wanted) and all(
            name == own_name and kind_of == own_kind and shape[1:] == own and shape and not isinstance(shape[0], int)
            for (name, kind_of, own), (own_name, own_kind, shape) in zip(wanted, found, strict=True)
        )
        if not fits:
            raise BackboneError(
                f"the router bundle {path} has {kind} {_nodes(found)}, but its metadata asks for "
                f"{_nodes([(name, type_, ['batch', *shape]) for name, type_, shape in wanted])}"
            )


def _signals(session: Any, metadata: RouterMetadata, path: Path) -> tuple[Signal, ...]:
    """The members of the pool, probes with their weights."""
    nothing = {INPUT: np.zeros((0, metadata.embedding.dimension), dtype=np.float32)}
    found: list[Signal] = []
    probes = 0
    for member in metadata.pool:
        if isinstance(member, HeadSignal):
            found.append(member)
        elif isinstance(member, ProbeMember):
            try:
                (weights,) = session.run([PROBE.format(probes)], nothing)
            except Exception as error:  # ONNX Runtime's own exceptions have no common base
                raise BackboneError(
                    f"the router bundle {path} has no weights of {member.probe}: {_one_line(error)}"
                ) from None
            probes += 1
            if weights.ndim != 2 or len(weights) != len(member.layers) or weights.dtype != np.float32:
                raise BackboneError(f"the router bundle {path} has weights of {member.probe} in another shape")
            if not np.isfinite(weights).all():
                raise BackboneError(f"the router bundle {path} has weights of {member.probe} that are not finite")
            found.append(ProbeSignal(member.probe, member.layers, weights))
        elif isinstance(member, SimilarityMember):
            found.append(SimilaritySignal(member.similarity))
        else:
            found.append(LikelihoodSignal(member.likelihood))
    return tuple(found)


def _nodes(nodes: list[tuple[str, str, list[Any]]]) -> str:
    texts = (f"{name} {kind} [{', '.join(map(str, shape))}]" for name, kind, shape in nodes)
    return "; ".join(texts) or "none"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
