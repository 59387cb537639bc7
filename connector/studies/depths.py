"""What a probe's depth costs: ``python -m connector.studies.depths docs/engineering/depths.json depths.svg``.

The file holds what each depth was worth (see docs/engineering/signals-log.md). This measures the price of each on
this machine, all depths in turns: milliseconds of a window of cached documents, of new ones, and bytes a document.
The prices are written into the file, and all of it into one picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.reader import Reader
from connector.benchmark.measuring import Way, alternate
from connector.benchmark.texts import Texts, read_texts
from connector.charts import BETTER, INK, SAME, axes_of, svg
from connector.checkpoints.pulling import obtain
from connector.evaluation.provenance import processor_name, today
from connector.evaluation.text_lines import write_text
from connector.heads.needs import Needs
from connector.routing.opening import open_reader
from connector.settings import load_settings

__all__ = ["depths_chart", "label", "measure", "write_study"]

_WINDOW, _TOKENS = 20, 180


def label(point: Mapping[str, Any]) -> str:
    """The layers of a point, and what else it reads."""
    return f"{' + '.join(map(str, point['layers']))}{', likelihood' if point.get('likelihood') else ''}"


def measure(reader: Reader, texts: Texts, points: list[dict[str, Any]], rounds: int) -> list[dict[str, Any]]:
    """The points with their prices: ``cached_ms``, ``new_ms`` (medians of windows of 20), ``bytes`` a document."""
    documents = texts.documents[:_WINDOW]
    ways, held = [], {}
    for point in points:
        needs = Needs(groups=(), layers=tuple(point["layers"]), likelihood=point.get("likelihood", False))

        def read(turn: int, needs: Needs = needs) -> None:
            reader.read(texts.query(turn), documents, needs)

        def encoded(turn: int, read: Callable[[int], None] = read, name: str = label(point)) -> None:
            read(turn)
            held[name] = reader.statistics().bytes

        ways.append(Way(f"new {label(point)}", encoded, prepare=reader.clear_cache))
        ways.append(Way(f"cached {label(point)}", read))
    rows = {row.name: row.seconds for row in alternate(ways, rounds)}
    return [
        {
            **point,
            "cached_ms": round(rows[f"cached {label(point)}"] * 1000, 1),
            "new_ms": round(rows[f"new {label(point)}"] * 1000),
            "bytes": held[label(point)] // len(documents),
        }
        for point in points
    ]


def depths_chart(study: Mapping[str, Any]) -> str:
    """Worth against price; the size of a point is that of a document's states."""
    figure, axes = axes_of(4.2)
    for point in study["points"]:
        used = point["layers"] == study["in_use"] and not point.get("likelihood")
        at = (point["cached_ms"], point["difference"])
        axes.errorbar(*at, yerr=point["se"], color=SAME, zorder=1)
        axes.scatter(*at, s=point["bytes"] / 20_000, color=BETTER if used else SAME, zorder=2)
        text = f"{label(point)}: {point['bytes'] / 1e6:.1f} MB{' (in use)' if used else ''}"
        axes.annotate(text, at, (7, 5), textcoords="offset points")
    axes.axhline(0, color=INK, linewidth=0.6, linestyle="--")
    axes.margins(x=0.25)
    axes.set_xlabel(f"milliseconds for {_WINDOW} cached documents of {_TOKENS} tokens ({study['cpu']})")
    axes.set_ylabel("nDCG@10 against layers 16 + 20")
    return svg(figure, "what the layers of a probe are worth and cost", alone=True)


def write_study(file: Path, study: Mapping[str, Any]) -> None:
    """A study's JSON, with a line for each of its ``points``.

    Args:
        file: where it goes.
        study: ``points``, and what else is told of them.
    """
    points = ",\n".join(f"  {json.dumps(point)}" for point in study["points"])
    told = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in study.items() if key != "points"]
    parts = ",\n".join([*told, f' "points": [\n{points}\n ]'])
    write_text(file, [f"{{\n{parts}\n}}\n"])


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--rounds", default=5, show_default=True)
def _main(file: Path, picture: Path, rounds: int) -> None:
    settings = load_settings("/dev/null", {"backbone.layout": "solo", "cache.scores_mb": 0}, {})
    study = json.loads(file.read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_folder(obtain(settings.backbone.model, cache=settings.cache.path).path)
    texts = read_texts(None, tokenizer, _WINDOW, _TOKENS)
    study["points"] = measure(open_reader(settings), texts, study["points"], rounds)
    study |= {"cpu": processor_name(), "date": today()}
    write_study(file, study)
    write_text(picture, [depths_chart(study)])


if __name__ == "__main__":
    _main()
