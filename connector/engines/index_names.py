"""Which indexes there are, for those who named one that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import closing, contextmanager

from connector.engines.open_engine import index_folder
from connector.errors import MissingIndexError, RhConnectorError
from connector.sections import CLUSTER_KINDS, Settings

__all__ = ["index_names", "naming_indexes", "other_indexes"]

# More would hide what is said before them.
_SHOWN = 20


def index_names(settings: Settings) -> list[str]:
    """Names that ``engine.index`` may have, sorted: indexes, aliases and data streams of a cluster, or embedded ones.

    Those that begin with a dot are a cluster's own, and left out.

    Raises:
        EngineError: the cluster does not say, or the folder cannot be read.
        MissingExtraError: the cluster's client is not installed.
    """
    if settings.engine.kind in CLUSTER_KINDS:
        from connector.engines.cluster.connect import connect

        with closing(connect(settings.engine)) as connection:
            answer = connection.request("GET", "/_resolve/index/*")
        found = {
            str(entry["name"]) for kind in ("indices", "aliases", "data_streams") for entry in answer.get(kind, [])
        }
    else:
        from connector.engines.embedded import embedded_indexes

        found = set(embedded_indexes(index_folder(settings).parent))
    return sorted(name for name in found if not name.startswith("."))


@contextmanager
def naming_indexes(settings: Settings) -> Iterator[None]:
    """Where an index is missing, the error also says which ones there are: the most similar names first."""
    try:
        yield
    except MissingIndexError as error:
        raise MissingIndexError(f"{error}{other_indexes(settings)}") from None


def other_indexes(settings: Settings) -> str:
    """The end of a message that an index is missing: which ones there are. Empty where that cannot be known."""
    wanted = settings.engine.index
    try:
        names = index_names(settings)
    except RhConnectorError:
        # A user who may search need not be one who may list.
        return ""
    if not names:
        return "; there is no other index"
    near = difflib.get_close_matches(wanted, names, n=_SHOWN)
    shown = [*near, *(name for name in names if name not in near)][:_SHOWN]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"; there {'is' if len(names) == 1 else 'are'}: {', '.join(shown)}{more}"
