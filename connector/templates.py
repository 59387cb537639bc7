"""Pages made of templates, by jinja2: whatever is put in is escaped, and a name that is missing is an error."""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["environment"]


def environment(package: str, **filters: Callable[[float], str]) -> Environment:
    """The templates in a package's folder ``templates``, and how they write numbers."""
    made = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(filters)
    return made
