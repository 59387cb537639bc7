"""Which of header, body and setting counts."""

from __future__ import annotations

import math

import pytest
from starlette.datastructures import Headers

from connector.service.deadlines import DEADLINE_HEADER, scope_of
from connector.settings import load_settings


@pytest.mark.parametrize(
    ("setting", "header", "body", "wanted"),
    [
        (None, None, None, math.inf),
        (3000, None, None, 103),
        # What a request says wins over the setting, also where it is later.
        (3000, "60000", None, 160),
        (3000, None, 60_000.0, 160),
        (None, "500", 250.0, 100.25),
        (None, "250", 500.0, 100.25),
    ],
)
def test_the_deadline_counts_from_the_arrival(
    setting: int | None, header: str | None, body: float | None, wanted: float
) -> None:
    settings = load_settings(options={"rerank.deadline_ms": setting}, environment={})
    headers = Headers({} if header is None else {DEADLINE_HEADER: header})
    assert scope_of(headers, settings, 100.0, body).deadline == wanted
