"""Pages made of templates, by jinja2: whatever is put in is escaped, and a name that is missing is an error.

Controls that would turn text around become replacement characters, as on a terminal: documents come from anywhere,
and a title must not read backwards. Marks that only lean to one side stay; Arabic and Hebrew need them.
"""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

__all__ = ["environment"]

# Embeddings, overrides and isolates.
_TURNING = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")


def environment(package: str, **filters: Callable[[float], str]) -> Environment:
    """The templates in a package's folder ``templates``, and how they write numbers."""
    made = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_straight,
    )
    made.filters.update(filters)
    return made


def _straight(value: object) -> object:
    """What is escaped already stays as it is."""
    return value.translate(_TURNING) if isinstance(value, str) and not isinstance(value, Markup) else value
