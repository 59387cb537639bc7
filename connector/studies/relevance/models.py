"""What larger models are worth and cost: ``python -m connector.studies.relevance.models FILE PICTURE``.

FILE (docs/engineering/models.json) says what each model was worth. This measures what a window costs with each that
is named with ``--measure``, on this machine, and draws all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.similarity import Similarity
from connector.benchmark.measuring import Way, alternate
from connector.benchmark.texts import Texts, read_texts
from connector.charts import BETTER, INK, SAME, panels_of, svg
from connector.checkpoints.pulling import obtain
from connector.checkpoints.shape import BackboneShape, decoder_config
from connector.cli.own_process import keep_big_buffers
from connector.embedding.embedder import Embedder
from connector.evaluation.provenance import processor_name, today
from connector.evaluation.text_lines import write_text
from connector.routing.opening import open_reader
from connector.settings import load_settings
from connector.studies.depths import measure as measure_depths
from connector.studies.depths import write_study
from connector.studies.markdown import markdown_table
from connector.training.train_signals import probe_layers

__all__ = ["gflop", "main", "models_chart", "models_table", "priced", "weights_met"]

WINDOW, TOKENS = 20, 180
_PANELS = (
    ("seconds", "seconds, new documents"),
    ("gflop", "GFLOP, new documents"),
    ("bytes", "bytes kept of a document"),
)

_MARKERS = "osD^vP*X<>p"
_SUMMED = ("seconds", "cached_seconds", "bytes", "gflop")


def gflop(weights: float, attended: float, tokens: int = TOKENS, window: int = WINDOW) -> float:
    """Of a window of new documents: a product and a sum for each weight, and attention to what stands before.

    Args:
        weights: that each token meets.
        attended: layers x heads x their dimension.
        tokens: of a document.
        window: documents.
    """
    return float(window * (2 * weights * tokens + 2 * attended * tokens**2) / 1e9)


def weights_met(config: Mapping[str, Any], layers: int) -> tuple[float, float]:
    """Weights of the first layers of a gated decoder, and their layers x heads x dimension.

    Args:
        config: the checkpoint's ``config.json``.
        layers: that are run.
    """
    shape = BackboneShape.from_config(config, "config.json")
    wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = 2 * shape.hidden * wide + 2 * shape.hidden * narrow
    feed_forward = 3 * shape.hidden * int(decoder_config(config)["intermediate_size"])
    return layers * (attention + feed_forward), layers * wide


def priced(
    point: dict[str, Any], rounds: int, assignments: Sequence[str] = (), folder_of: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The point with its price on this machine: ``seconds``, ``cached_seconds``, ``gflop``, ``bytes``.

    What several models rank costs what each of them costs; the second one of a cascade reads so many documents.

    Args:
        point: with ``model``, for a cascade also ``second`` and ``hits``; with ``embedder``, beside a model or alone,
            also the ``weights`` and ``attended`` of ``gflop``.
        rounds: see ``alternate``; the median counts.
        assignments: KEY=VALUE of more settings.
        folder_of: name of an embedding model -> its folder; the others come from the hub.
    """
    prices = []
    if "model" in point:
        prices.append(_priced_model(point["model"], WINDOW, rounds, assignments))
    if point.get("second"):
        prices.append(_priced_model(point["second"], point["hits"], rounds, assignments))
    if point.get("embedder"):
        folder = (folder_of or {}).get(point["embedder"], point["embedder"])
        prices.append(_priced_embedder(point, rounds, folder))
    summed = {key: round(sum(price[key] for price in prices), 4) for key in _SUMMED}
    return {**point, **prices[0], **summed}


def _priced_model(model: str, window: int, rounds: int, assignments: Sequence[str]) -> dict[str, Any]:
    given = {"backbone.layout": "solo", "cache.scores_mb": "0"}
    given |= dict(each.split("=", 1) for each in assignments) | {"backbone.model": model}
    settings = load_settings("/dev/null", given, {})
    folder = obtain(settings.backbone.model, cache=settings.cache.path, offline=settings.backbone.offline).path
    reader = open_reader(settings)
    layers = probe_layers(reader.runtime.shape.layers)
    texts = read_texts(None, Tokenizer.from_folder(folder), window, TOKENS)
    (found,) = measure_depths(reader, texts, [{"layers": layers}], rounds)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {
        "layers": max(layers),
        "seconds": round(found["new_ms"] / 1000, 3),
        "cached_seconds": round(found["cached_ms"] / 1000, 3),
        "bytes": found["bytes"],
        "gflop": round(gflop(*weights_met(config, max(layers)), window=window)),
    }


def _priced_embedder(point: dict[str, Any], rounds: int, model: str) -> dict[str, Any]:
    """Alone, its documents' vectors are kept by who searches with them: a cached window costs the query's.

    Beside an LLM, documents are embedded one by one and remembered, as a reader does it.
    """
    embedder = Embedder.load(model)
    default = load_settings("/dev/null", {}, {})
    tokenizer = Tokenizer.from_folder(obtain(default.backbone.model, cache=default.cache.path).path)
    texts: Texts = read_texts(None, tokenizer, WINDOW, TOKENS)
    documents, remembered = texts.documents[:WINDOW], Similarity(embedder)

    def embedded(turn: int) -> None:
        embedder.documents(documents)
        asked(turn)

    def asked(turn: int) -> None:
        embedder.query(texts.query(turn))

    def weighed(similarity: Similarity, turn: int) -> None:
        similarity.cosines(texts.query(turn), documents)

    if "model" in point:
        weighed(remembered, 0)
        ways = [
            Way("new", lambda turn: weighed(Similarity(embedder), turn)),
            Way("cached", lambda turn: weighed(remembered, turn)),
        ]
    else:
        ways = [Way("new", embedded), Way("cached", asked)]
    rows = {row.name: row.seconds for row in alternate(ways, rounds)}
    size = int(embedder.query("size").nbytes)
    return {
        "seconds": round(rows["new"], 3),
        "cached_seconds": round(rows["cached"], 4),
        "bytes": size,
        "gflop": round(gflop(point["weights"], point["attended"])),
    }


def models_table(points: Sequence[Mapping[str, Any]]) -> str:
    """All points as Markdown, the cheapest first."""
    header = [
        "ranking, with BM25",
        "queries",
        "gain",
        "GFLOP",
        "s, new",
        "s, cached",
        "bytes a document",
    ]
    rows = [
        [
            str(point["name"]),
            str(point["queries"]),
            f"{point['gain']:+.4f}",
            f"{point['gflop']:,.0f}",
            f"{point['seconds']:.2f}",
            f"{point['cached_seconds']:.3f}",
            f"{point['bytes']:,}",
        ]
        for point in sorted(points, key=lambda own: float(own["gflop"]))
    ]
    return markdown_table(header, rows)


def models_chart(study: Mapping[str, Any]) -> str:
    """Gain against each price; prices are on logarithmic axes."""
    figure, panels = panels_of(3.6, len(_PANELS))
    panels[0].set_ylabel("gain over BM25, nDCG@10")
    for axes, (key, label) in zip(panels, _PANELS, strict=True):
        for point, marker in zip(study["points"], _MARKERS, strict=False):
            colour, place = BETTER if "model" in point else SAME, (point[key], point["gain"])
            axes.errorbar(*place, yerr=point.get("error", 0.0), color=colour, zorder=1)
            # A cascade's point is hollow.
            inside = "white" if point.get("second") else colour
            axes.scatter(*place, s=34, color=inside, edgecolors=colour, marker=marker, label=point["name"], zorder=2)
        axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.set_xlabel(label)
        axes.axhline(0, color=INK, linewidth=0.6, linestyle="--")
    # Points lie too close for names beside them.
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False, fontsize=8
    )
    return svg(figure, "what a model is worth, against what a window costs with it", alone=True)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--measure", "names", multiple=True, metavar="NAME", help="Points whose price is measured here.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--folder", "folders", multiple=True, metavar="NAME=FOLDER", help="Of an embedding model.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="More settings.")
def main(
    file: Path,
    picture: Path,
    names: tuple[str, ...],
    rounds: int,
    folders: tuple[str, ...],
    assignments: tuple[str, ...],
) -> None:
    """Draw FILE as PICTURE and print it as a table."""
    keep_big_buffers()
    study = json.loads(file.read_text(encoding="utf-8"))
    unknown = set(names) - {point["name"] for point in study["points"]}
    if unknown:
        raise click.UsageError(f"--measure {', '.join(sorted(unknown))}: {file} has no such point")
    folder_of = dict(each.split("=", 1) for each in folders)
    study["points"] = [
        priced(point, rounds, assignments, folder_of) if point["name"] in names else point
        for point in study["points"]
    ]
    study |= {"window": WINDOW, "tokens": TOKENS}
    if names:
        study |= {"cpu": processor_name(), "date": today()}
    write_study(file, study)
    if all("gflop" in point for point in study["points"]):
        write_text(picture, [models_chart(study)])
        click.echo(models_table(study["points"]))


if __name__ == "__main__":
    main()
