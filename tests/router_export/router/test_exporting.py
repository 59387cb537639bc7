"""Export: ONNX Runtime answers as torch does, or nothing is written; the same router gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.errors import BackboneError
from connector.routing.bundle import Bundle
from connector.routing.metadata import RouterMetadata
from connector.training.router import Router
from router_export import export
from tests.training.worlds import metadata

D = 14


def make_router(seed: int = 0, told: RouterMetadata | None = None, **sizes: Any) -> Router:
    told = told or metadata()
    router = Router(D, 3, len(told.pool), told.most_heads, told.activation)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in router.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
        router.center.copy_(torch.randn(D, generator=generator))
        router.spread.copy_(torch.rand(D, generator=generator) + 0.5)
        router.kappa.fill_(told.kappa)
    router.samples = torch.randn(5, D, generator=generator)
    return router


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["relu", "binary"]), st.integers(1, 4), st.integers(1, 9))
def test_onnx_runtime_answers_as_torch(
    tmp_path_factory: pytest.TempPathFactory, seed: int, activation: str, most: int, batch: int
) -> None:
    told = metadata(activation=activation, most_heads=most)
    router = make_router(seed, told)
    bundle = export(router, told, tmp_path_factory.mktemp("export") / "r.onnx").bundle
    given_rows = np.random.default_rng(seed).standard_normal((batch, D)).astype(np.float32) * 3
    given_rows[0, -3:] = np.nan
    for own, other in zip(bundle.gates(given_rows), router.gates(given_rows), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5)
    # One at a time is the same as all at once.
    gates, selected, first = bundle.gates(given_rows)
    for at in range(batch):
        one = bundle.gates(given_rows[at : at + 1])
        np.testing.assert_array_equal(one[0][0], gates[at])
        np.testing.assert_array_equal(one[1][0], selected[at])
        assert one[2][0] == first[at]
    assert (gates >= 0).all() and ((gates > 0).sum(axis=1) >= 1).all() and ((gates > 0).sum(axis=1) <= most).all()


def test_the_same_router_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(make_router(), metadata(), tmp_path / f"{name}.onnx")
        make_router().save(tmp_path / f"{name}.safetensors", metadata())
    for suffix in ("onnx", "safetensors"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    export(make_router(), metadata(created_at="2026-02-01"), tmp_path / "c.onnx")
    assert (tmp_path / "c.onnx").read_bytes() != (tmp_path / "a.onnx").read_bytes()


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """What cleans up must not hide it."""
    (tmp_path / "file").touch()
    router = make_router()
    with pytest.raises(BackboneError, match="cannot write the router"):
        router.save(tmp_path / "file" / "router.safetensors", metadata())
    with pytest.raises(BackboneError, match="cannot write the router bundle"):
        export(router, metadata(), tmp_path / "file" / "router.onnx")


def test_a_router_survives_its_file(tmp_path: Path) -> None:
    router, path = make_router(), tmp_path / "r.safetensors"
    router.save(path, metadata())
    loaded, told = Router.load(path)
    assert told == metadata()
    for name, value in router.arrays().items():
        np.testing.assert_array_equal(value, loaded.arrays()[name])
    exported = export(loaded, told, tmp_path / "r.onnx")
    assert exported.real == 5 and exported.difference <= 1e-5


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "missing", "not finite"])
def test_a_damaged_router_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "r.safetensors"
    router = make_router()
    if damage == "not finite":
        router.prior.data[0] = float("nan")
        with pytest.raises(BackboneError, match="prior is not finite"):
            router.save(path, metadata())
        return
    router.save(path, metadata())
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "missing":
        path.unlink()
    else:
        from safetensors.numpy import save_file

        save_file({"a": np.zeros(3, np.float32)}, path)
    with pytest.raises(BackboneError) as caught:
        Router.load(path)
    assert "\n" not in str(caught.value) and "r.safetensors" in str(caught.value)


def test_an_export_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.onnx"
    export(make_router(), metadata(), path)
    before = path.read_bytes()
    router = make_router(1)
    honest = Router.gates

    def skewed(self: Router, embeddings: Any) -> Any:
        gates, selected, first = honest(self, embeddings)
        return gates, selected, first + np.float32(1e-3)

    monkeypatch.setattr(Router, "gates", skewed)
    with pytest.raises(BackboneError, match="first_stage_gate differs from torch's"):
        export(router, metadata(), path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["r.onnx"]


def test_metadata_of_another_router_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="kappa"):
        export(make_router(), metadata(kappa=0.5), tmp_path / "r.onnx")
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_small_and_needs_no_torch(tmp_path: Path, repository: Path) -> None:
    import subprocess
    import sys

    path = tmp_path / "r.onnx"
    exported = export(make_router(), metadata(), path)
    assert exported.bundle.size < 2_000_000
    code = (
        "import sys; from pathlib import Path; from connector.routing.bundle import Bundle; "
        f"Bundle.load(Path({str(path)!r})); sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=repository).returncode == 0


def test_the_route_is_what_the_gates_say(tmp_path: Path) -> None:
    bundle: Bundle = export(make_router(), metadata(), tmp_path / "r.onnx").bundle
    vector = np.random.default_rng(3).standard_normal(D).astype(np.float32)
    gates, selected, first = bundle.gates(vector[None])
    route = bundle.route(vector)
    assert route.signals == tuple(bundle.metadata.pool[at] for at in selected[0] if gates[0, at] > 0)
    assert list(route.gates) == sorted(route.gates, reverse=True)
    assert route.first_stage_gate == first[0]
    static = bundle.static_route()
    assert static.signals == ((5, 3, "query"), (2, 1, "query"))
    assert (static.gates, static.scales, static.first_stage_gate) == ((0.75, 0.25), (0.25, 0.5), 1.5)
    assert static.heads == ((2, 1), (5, 3)) and static.needs.deepest_head == 5
