"""``python -m tests.campaign PART…``: runs parts of the campaign, or writes the page of what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click

from connector.evaluation.provenance import processor_name, today
from tests.campaign.access import access
from tests.campaign.clocks import clocks
from tests.campaign.clusters import clusters
from tests.campaign.damage import damage
from tests.campaign.disks import disks
from tests.campaign.hostile import hostile_bodies, hostile_texts
from tests.campaign.injections import injections
from tests.campaign.kills import kills
from tests.campaign.real_nodes import real_nodes
from tests.campaign.rows import Row, kept, page, read
from tests.campaign.services.overruns import overruns
from tests.campaign.services.restarts import restarts

PARTS: Mapping[str, Callable[[int, int], Iterator[Row]]] = {
    "kills": kills,
    "damage": damage,
    "disks": disks,
    "clocks": clocks,
    "clusters": clusters,
    "nodes": real_nodes,
    "input": hostile_texts,
    "bodies": hostile_bodies,
    "access": access,
    "restarts": restarts,
    "overruns": overruns,
}
_KEPT = Path("docs/results/campaign.jsonl")


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--rounds", default=100, show_default=True, help="Trials of each kind.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--injections",
    "collection",
    metavar="FOLDER",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Also measure what instructions in documents do, on this collection's judged documents.",
)
@click.option("--keep", default=_KEPT, show_default=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--page", "target", type=click.Path(path_type=Path, dir_okay=False), help="Write what was kept.")
def main(
    parts: tuple[str, ...], rounds: int, seed: int, collection: Path | None, keep: Path, target: Path | None
) -> None:
    """Try to break rh-connector, and keep what became of it. Exits with 1 where anything was lost."""
    lost = 0
    asked = {part: PARTS[part](rounds, seed) for part in parts}
    if collection is not None:
        asked[f"--injections {collection.resolve().name}"] = injections(collection, rounds, seed)
    for part, rows in asked.items():
        command = f"python -m tests.campaign {part} --rounds {rounds} --seed {seed}"
        about = {"command": command, "machine": f"{processor_name()}, {today()}"}
        for row in kept(rows, keep, about):
            lost += row.tried - row.survived
            click.echo(f"{row.part}, {row.what}: {row.survived} of {row.tried} survived {'; '.join(row.lost)}")
    if target is not None:
        target.write_text(page(read(keep)), encoding="utf-8")
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    main()
