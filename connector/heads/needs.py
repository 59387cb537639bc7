"""What signals need of a reading: attention of heads, hidden states of layers, the query's likelihood."""

from __future__ import annotations

from dataclasses import dataclass

from connector.heads.row_groups import ROW_GROUPS, RowGroup

__all__ = ["Head", "Needs"]

Head = tuple[int, int]
"""(layer, head), both from 0."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a reading is to give. States and likelihood can be had of the layout ``solo`` alone.

    Attributes:
        heads: whose attention is wanted, each once.
        groups: the row groups that are wanted of them.
        layers: whose entering hidden states are wanted, each once; as many as the LLM has: those that leave the last.
        likelihood: whether the log-probabilities of the query's tokens are wanted.
        similarity: whether the cosines of the embedding model are wanted that the reader has beside the LLM.
    """

    heads: tuple[Head, ...] = ()
    groups: tuple[RowGroup, ...] = ROW_GROUPS
    layers: tuple[int, ...] = ()
    likelihood: bool = False
    similarity: bool = False

    def __or__(self, other: Needs) -> Needs:
        """What both need."""
        groups = {*self.groups, *other.groups}
        return Needs(
            tuple(sorted({*self.heads, *other.heads})),
            tuple(name for name in ROW_GROUPS if name in groups),
            tuple(sorted({*self.layers, *other.layers})),
            self.likelihood or other.likelihood,
            self.similarity or other.similarity,
        )

    @property
    def deepest_head(self) -> int:
        """The last layer with a head; -1 without any."""
        return max((layer for layer, _ in self.heads), default=-1)

    def depth(self, layers: int) -> int:
        """Layers that have to be run for it, of so many that the LLM has."""
        return layers if self.likelihood else max(self.deepest_head + 1, *self.layers, 0)
