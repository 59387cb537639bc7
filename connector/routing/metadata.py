"""What a router file says about itself: for which LLM, over which pool, how it was trained and what it gained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, field_validator
from pydantic import model_validator as _model_validator
from typing_extensions import TypedDict

from connector.backbone.reader import EmbeddedForm
from connector.errors import BackboneError
from connector.heads.head_sets import check_layout
from connector.heads.readouts import HeadSignal
from connector.heads.reference import ReferenceScores
from connector.routing.query_embedding import FEATURES, Pooling
from connector.sections import Layout

__all__ = [
    "FORMAT",
    "METADATA_KEY",
    "AbsoluteRecord",
    "Activation",
    "EmbeddingRecipe",
    "LikelihoodMember",
    "Member",
    "ProbeMember",
    "RouterMetadata",
    "SimilarityMember",
    "StaticSet",
    "member_name",
]

FORMAT = "rh-router-2"
# Version 1 knew heads only, and no absolute scores.
_READABLE = ("rh-router-1", FORMAT)
# The key under which the JSON stands in the header of a .safetensors file and among the properties of an .onnx file.
METADATA_KEY = "rh_connector"

Activation = Literal["relu", "binary"]
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Positive = Annotated[float, Field(gt=0)]
_Index = Annotated[int, Field(ge=0)]
_LONGEST_VALUE = 60


class StaticSet(TypedDict):
    """The static set around which a router was made: what it gives to every query where kappa is 0."""

    members: list[_Index]
    gates: list[_Positive]
    first_stage: Annotated[float, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ProbeMember(_Frozen):
    """A probe of the pool: see ``ProbeSignal``. Its weights stand beside the router's.

    Attributes:
        probe: its name.
        layers: whose entering states it looks at.
    """

    probe: str = Field(min_length=1)
    layers: tuple[_Index, ...] = Field(min_length=1)


class LikelihoodMember(_Frozen):
    """The query's likelihood as a member of the pool: see ``LikelihoodSignal``."""

    likelihood: Literal["sum", "mean"]


class SimilarityMember(_Frozen):
    """The cosine in an embedding model as a member of the pool: see ``SimilaritySignal``.

    Attributes:
        similarity: name of the embedding model.
        digest: sha256 of its graph; another one is refused.
    """

    similarity: str = Field(min_length=1)
    digest: _Sha256


Member = HeadSignal | ProbeMember | LikelihoodMember | SimilarityMember


class AbsoluteRecord(_Frozen):
    """What makes the head scores absolute; see ``Absolute``.

    Attributes:
        means: of each member of the pool.
        bias: of the logistic.
        spread: unit of the first stage's gate.
    """

    means: tuple[float, ...]
    bias: float
    spread: _Positive


class EmbeddingRecipe(_Frozen):
    """How the query embedding is made; see ``QueryEmbedding``.

    Attributes:
        form: what stands before the query in its short pass.
        layers: whose entering hidden states are taken; their vectors stand one after the other.
        pooling: mean over the query's tokens, or its last token.
        features: whether the features of ``query_embedding.FEATURES`` follow the hidden states.
        dimension: d, of all layers and the features together.
    """

    form: EmbeddedForm
    layers: tuple[_Index, ...] = Field(min_length=1)
    pooling: Pooling
    features: bool
    dimension: int = Field(ge=1)

    @_model_validator(mode="after")
    def _layers_fit(self) -> EmbeddingRecipe:
        _distinct("embedding.layers", self.layers)
        states = self.dimension - (len(FEATURES) if self.features else 0)
        if states < 1 or states % len(self.layers):
            raise ValueError(
                f"embedding.dimension = {self.dimension}: not a multiple of its {len(self.layers)} layers"
                + (f", and {len(FEATURES)} features" if self.features else "")
            )
        return self


class RouterMetadata(_Frozen):
    """Everything about a router but its weights. Made of wrong values, it raises ``pydantic.ValidationError``.

    Attributes:
        format: version of this record.
        model: name of the model.
        fingerprint: sha256 of weights, tokenizer, template and layout; another one is refused.
        layout: the layout in which the router was trained; ``block`` is gone, and its files can be looked at only.
        template: sha256 of the prompt template.
        pool: (layer, head, read-out), a probe, the likelihood or a similarity, each once.
        scales: for each member, how far its scores of one window usually lie apart; above 0.
        most_heads: P; most members that a query gets.
        activation: how logits become gates; see ``Router``.
        embedding: how the query embedding is made.
        kappa: strength of the query's own part; 0: every query gets the static set.
        deepest_layer: the last layer that the pool needs; with the likelihood the LLM's last.
        absolute: what makes head scores absolute; None: they are standardized over a window.
        shown: (layer, head) whose attention says where in a document the answer stands; they count nothing.
        static: indices into the pool, their gates, and the first stage's gate.
        reference: scores of built-in documents with the static set; None: other formats of the model are refused.
        training: collections, splits, counts, seeds, command; free JSON.
        gains: what was measured, with controls; free JSON.
        created_at: ISO date or date and time.
    """

    format: Literal["rh-router-1", "rh-router-2"] = "rh-router-2"
    model: str = Field(min_length=1)
    fingerprint: _Sha256
    layout: Layout | Literal["block"]
    template: _Sha256
    pool: tuple[Member, ...] = Field(min_length=1)
    scales: tuple[_Positive, ...]
    most_heads: int = Field(ge=1)
    activation: Activation
    embedding: EmbeddingRecipe
    kappa: float = Field(ge=0)
    deepest_layer: int
    static: StaticSet
    reference: ReferenceScores | None = None
    absolute: AbsoluteRecord | None = None
    shown: tuple[tuple[_Index, _Index], ...] = ()
    training: dict[str, JsonValue]
    gains: dict[str, JsonValue]
    created_at: str

    @field_validator("created_at")
    @classmethod
    def _is_a_date(cls, value: str) -> str:
        datetime.fromisoformat(value)
        return value

    @_model_validator(mode="after")
    def _parts_fit(self) -> RouterMetadata:
        _distinct("pool", self.pool)
        for at, member in enumerate(self.pool):
            if isinstance(member, HeadSignal) and min(member.layer, member.head) < 0:
                raise ValueError(f"pool[{at}] = ({member.layer}, {member.head}): layer and head must be 0 or more")
        size = len(self.pool)
        if len(self.scales) != size:
            raise ValueError(f"scales: {len(self.scales)} numbers for a pool of {size}")
        if self.most_heads > size:
            raise ValueError(f"most_heads = {self.most_heads}: more than the pool's {size} members")
        deepest = max(_deepest(member) for member in self.pool)
        if self.deepest_layer != deepest and (self.deepest_layer < deepest or not self.likelihoods):
            raise ValueError(f"deepest_layer = {self.deepest_layer}: the pool's is {deepest}")
        beyond = [pair for pair in self.shown if pair[0] > self.deepest_layer]
        if beyond:
            raise ValueError(f"shown: head {beyond[0]} lies behind deepest_layer = {self.deepest_layer}")
        if self.absolute is not None and len(self.absolute.means) != size:
            raise ValueError(f"absolute.means: {len(self.absolute.means)} numbers for a pool of {size}")
        members, gates = self.static["members"], self.static["gates"]
        _distinct("static.members", members)
        if not members or max(members) >= size:
            raise ValueError(f"static.members = {members}: give at least one, each below the pool's size {size}")
        if len(gates) != len(members):
            raise ValueError(f"static.gates: {len(gates)} numbers for {len(members)} members")
        return self

    @property
    def heads(self) -> tuple[HeadSignal, ...]:
        """The heads of the pool."""
        return tuple(member for member in self.pool if isinstance(member, HeadSignal))

    @property
    def probes(self) -> tuple[ProbeMember, ...]:
        """The probes of the pool."""
        return tuple(member for member in self.pool if isinstance(member, ProbeMember))

    @property
    def similarities(self) -> tuple[SimilarityMember, ...]:
        """The similarities of the pool."""
        return tuple(member for member in self.pool if isinstance(member, SimilarityMember))

    @property
    def likelihoods(self) -> tuple[LikelihoodMember, ...]:
        """The likelihoods of the pool."""
        return tuple(member for member in self.pool if isinstance(member, LikelihoodMember))

    def to_json(self) -> str:
        """One line of ASCII, the same for the same values."""
        return json.dumps(
            self.model_dump(mode="json"), ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":")
        )

    @classmethod
    def from_json(cls, text: str, source: str = "the router's metadata") -> RouterMetadata:
        """Read and check a record.

        Args:
            text: JSON.
            source: what errors call it: a file's name.

        Raises:
            BackboneError: one line with the key and its value.
        """
        try:
            record = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise BackboneError(f"{source} is damaged: its metadata is not JSON ({error})") from None
        if not isinstance(record, dict):
            raise BackboneError(f"{source} is damaged: its metadata is not a JSON object")
        if record.get("format") not in _READABLE:
            raise BackboneError(
                f"{source} is of format {_shown(record.get('format'))}, this rh-connector reads "
                f"{' and '.join(_READABLE)}; export the "
                "router again (rh-connector export), or use the version of rh-connector that wrote it"
            )
        try:
            # From JSON and strict: no "9" for 9, but lists for tuples.
            return cls.model_validate_json(json.dumps(record), strict=True)
        except ValidationError as error:
            raise BackboneError(f"{source} is damaged: {_first_line(error)}") from None

    def check(self, fingerprint: str | None, template: str, layers: int, heads: int, source: str) -> None:
        """Refuse a router that was trained for something else.

        Args:
            fingerprint: of the backbone, template and layout in use; None: its scores are checked instead.
            template: sha256 of the prompt template in use.
            layers: the backbone's layers.
            heads: its query heads a layer.
            source: what errors call the router: its file's name.

        Raises:
            BackboneError: a hash differs, or the pool or the query embedding names what the backbone does not have.
        """
        mend = "train one for it (rh-connector train), or set router.bundle to one that fits"
        check_layout(self.layout, source)
        if self.template != template:
            raise BackboneError(
                f"{source} was trained with another template ({self.template[:12]}) than this one "
                f"({template[:12]}); {mend}"
            )
        if fingerprint is not None and self.fingerprint != fingerprint:
            raise BackboneError(
                f"{source} was trained for {self.model} {self.layout} ({self.fingerprint[:12]}), not for this "
                f"backbone, template and layout ({fingerprint[:12]}); {mend}"
            )
        for layer, head in (*((own.layer, own.head) for own in self.heads), *self.shown):
            if layer >= layers or head >= heads:
                raise BackboneError(
                    f"{source} names head ({layer}, {head}), which this backbone of {layers} x {heads} heads does "
                    f"not have; {mend}"
                )
        for probe in self.probes:
            if max(probe.layers) > layers:
                raise BackboneError(
                    f"{source} probes layer {max(probe.layers)}, which this backbone of {layers} layers lacks; {mend}"
                )
        for layer in self.embedding.layers:
            if layer > layers:
                raise BackboneError(
                    f"{source} embeds queries at layer {layer}, which this backbone of {layers} layers lacks; {mend}"
                )

    def check_embedder(self, name: str | None, digest: str | None) -> None:
        """Refuse to weigh cosines of another embedding model than those of the training.

        Args:
            name: of the one that is there; None: there is none.
            digest: sha256 of its graph.

        Raises:
            BackboneError: the pool has a similarity, and it is of another model.
        """
        for member in self.similarities:
            if member.digest != digest:
                there = "there is none" if digest is None else f"router.embedder is {name} ({digest[:12]})"
                raise BackboneError(
                    f"the router weighs similarities in the embedding model {member.similarity} "
                    f"({member.digest[:12]}), and {there}; set router.embedder to the one with that graph, or "
                    "router.bundle to another router"
                )


def member_name(member: Member) -> str:
    """A member of the pool in a word."""
    if isinstance(member, HeadSignal):
        return f"{member.layer}.{member.head}/{member.readout}"
    if isinstance(member, SimilarityMember):
        return f"similarity/{member.similarity}"
    return member.probe if isinstance(member, ProbeMember) else f"likelihood/{member.likelihood}"


def _deepest(member: Member) -> int:
    """The last layer that has to be run for a member, as far as it says so itself."""
    if isinstance(member, HeadSignal):
        return member.layer
    # States that enter a layer are what the one before gives.
    return max(member.layers) - 1 if isinstance(member, ProbeMember) else 0


def _distinct(key: str, values: Sequence[Any]) -> None:
    seen = set()
    for at, value in enumerate(values):
        if value in seen:
            raise ValueError(f"{key}[{at}] = {_shown(value)}: it is there twice")
        seen.add(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _first_line(error: ValidationError) -> str:
    """The first mistake as ``key = value: what is wrong``, on one line."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "missing":
        text = f"{place} is missing"
    elif first["type"] == "value_error" and (not place or message.startswith(place)):
        # A relation between keys: its message names them.
        text = message
    else:
        text = f"{place} = {_shown(first['input'])}: {message}"
    return " ".join(text.split())
