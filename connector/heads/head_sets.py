"""Head sets: which heads are read, found once for a model and layout and kept in a small JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from connector.errors import BackboneError
from connector.heads.reference import ReferenceScores
from connector.sections import LAYOUTS, READOUTS, ReadOut
from connector.storage_faults import storage_mend
from connector.whole_files import replacing

__all__ = ["HeadSet", "StaticHeads", "check_layout", "shipped_path"]

_FORMAT = "rh-static-heads-1"


@dataclass(frozen=True, slots=True)
class HeadSet:
    """Heads for one read-out, and the first-stage weight that was best with them.

    Attributes:
        heads: (layer, head) pairs, best first.
        weight: weight of the first stage's standardized scores in the fusion.
        scales: for each head, how far its scores of one window's documents usually lie apart (standard deviation);
            they are divided by it, so that heads that attend strongly do not drown the others. Empty: no division.
    """

    heads: tuple[tuple[int, int], ...]
    weight: float
    scales: tuple[float, ...] = ()


@dataclass(frozen=True)
class StaticHeads:
    """One file: static head sets of one model in one layout.

    Attributes:
        model: name of the model.
        fingerprint: of weights, tokenizer, template and layout; another one is refused.
        layout: the layout in which the heads were found.
        sets: read-out -> head set.
        all_weights: read-out -> first-stage weight for all heads together.
        found: how: collections, splits, queries, criterion, command.
        reference: read-out -> scores of built-in documents with its set; where one lacks, other formats are refused.
    """

    model: str
    fingerprint: str
    layout: str
    sets: Mapping[str, HeadSet]
    all_weights: Mapping[str, float] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)
    reference: Mapping[str, ReferenceScores] = field(default_factory=dict)

    def for_readout(self, readout: ReadOut) -> HeadSet:
        """The set of one read-out.

        Raises:
            BackboneError: the file has none.
        """
        if readout not in self.sets:
            raise BackboneError(
                f"the head set of {self.model} has no heads for the read-out {readout}, only for "
                f"{', '.join(self.sets)}; set rerank.readout to one of these, or run: rh-connector train --static"
            )
        return self.sets[readout]

    def check(self, fingerprint: str | None, shape_layers: int, shape_heads: int, source: str) -> None:
        """Refuse heads that were found for something else; without a fingerprint, their scores are checked instead.

        Raises:
            BackboneError: the fingerprint differs, or a head does not exist.
        """
        check_layout(self.layout, source)
        if fingerprint is not None and self.fingerprint != fingerprint:
            raise BackboneError(
                f"{source} was found for {self.model} {self.layout} ({self.fingerprint[:12]}), not for this "
                f"backbone, template and layout ({fingerprint[:12]}); run: rh-connector train --static"
            )
        for entry in self.sets.values():
            for layer, head in entry.heads:
                if not (0 <= layer < shape_layers and 0 <= head < shape_heads):
                    raise BackboneError(f"{source} names head ({layer}, {head}), which this backbone does not have")

    def save(self, path: Path) -> None:
        """Write the file; an existing one is replaced at once or not at all.

        Raises:
            BackboneError: it cannot be written.
        """
        record = {
            "format": _FORMAT,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "layout": self.layout,
            "sets": {
                readout: {
                    "heads": [list(head) for head in entry.heads],
                    "scales": list(entry.scales),
                    "first_stage_weight": entry.weight,
                }
                for readout, entry in self.sets.items()
            },
            "all_heads_first_stage_weights": dict(self.all_weights),
            "reference": {readout: asdict(scores) for readout, scores in self.reference.items()},
            "found": dict(self.found),
        }
        try:
            with replacing(path) as part:
                part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            mend = storage_mend(error, "name another file")
            raise BackboneError(f"cannot write the heads {path}: {error.strerror or error}; {mend}") from None

    @classmethod
    def load(cls, path: Path) -> StaticHeads:
        """Read a file.

        Raises:
            BackboneError: it is missing, damaged, or of another format.
        """
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BackboneError(f"cannot read the head set {path}: {error.strerror}") from None
        except ValueError:
            raise BackboneError(f"{path} is not a head set: it is not JSON") from None
        if not isinstance(record, dict) or record.get("format") != _FORMAT:
            raise BackboneError(f"{path} is not a head set of format {_FORMAT}")
        try:
            sets = {readout: _head_set(entry) for readout, entry in record["sets"].items()}
            if not sets or not set(sets) <= set(READOUTS):
                raise ValueError("no known read-out")
            texts = [record[key] for key in ("model", "fingerprint", "layout")]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("model, fingerprint and layout must be text")
            weights = {readout: float(weight) for readout, weight in record["all_heads_first_stage_weights"].items()}
            reference = {
                readout: ReferenceScores(own["texts"], tuple(tuple(map(float, row)) for row in own["scores"]))
                for readout, own in record.get("reference", {}).items()
            }
            model, fingerprint, layout = texts
            return cls(model, fingerprint, layout, sets, weights, record.get("found") or {}, reference)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BackboneError(f"the head set {path} is damaged: {error!r}") from None


def _head_set(entry: Mapping[str, Any]) -> HeadSet:
    heads = tuple((int(layer), int(head)) for layer, head in entry["heads"])
    if not heads or len(set(heads)) != len(heads):
        raise ValueError("heads must be distinct (layer, head) pairs, at least one")
    scales = tuple(float(scale) for scale in entry["scales"])
    if len(scales) not in (0, len(heads)) or any(not 0 < scale < float("inf") for scale in scales):
        raise ValueError("scales must be one number above 0 for each head, or none")
    weight = float(entry["first_stage_weight"])
    if not 0 <= weight < float("inf"):
        raise ValueError("first_stage_weight must be 0 or more")
    return HeadSet(heads, weight, scales)


def check_layout(layout: str, source: str) -> None:
    """Refuse heads or a router of a layout that is gone; no LLM is needed to tell.

    Args:
        layout: for which they were made.
        source: what errors call them: a file's name.

    Raises:
        BackboneError: there is no such layout.
    """
    if layout not in LAYOUTS:
        raise BackboneError(
            f"{source} was made for the layout {layout}, which is gone; make one for another (rh-connector train), "
            "or leave router.bundle out for what is shipped"
        )


def shipped_path(model: str, layout: str) -> Path | None:
    """The file that the package ships for a catalogue model and layout, or None."""
    path = Path(str(resources.files("connector.heads"))) / "shipped" / f"{model}.{layout}.json"
    return path if path.is_file() else None
