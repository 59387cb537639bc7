"""The examples of docs/http-api.md, run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from connector.reranking.reranker import Reranker
from tests.service.conftest import ClientFactory
from tests.service.test_dialects import ROUTES

PAGE = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```bash\n(curl .*?)```\n\n```json\n(.*?)```", PAGE, re.DOTALL)
# What no two answers share.
CHANGING = {"id", "created"}


def send(client: TestClient, command: str) -> Any:
    words = iter(shlex.split(command)[1:])
    url, headers, body = "", {}, None
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(words)
        elif not word.startswith("-"):
            url = word
    path = urlsplit(url).path
    if body is None:
        return client.get(path, headers=headers)
    return client.post(path, content=body.encode(), headers=headers)


def same(answer: Any, example: Any, *, scores: bool) -> Any:
    """The example, with what may differ taken from the answer: without ``scores`` every number with a point, too."""
    if isinstance(example, dict) and isinstance(answer, dict):
        return {
            key: answer[key] if key in CHANGING and key in answer else same(answer.get(key), value, scores=scores)
            for key, value in example.items()
        }
    if isinstance(example, list) and isinstance(answer, list) and len(example) == len(answer):
        return [same(left, right, scores=scores) for left, right in zip(answer, example, strict=True)]
    if isinstance(example, float):
        return pytest.approx(example, abs=1e-4) if scores or not isinstance(answer, float) else answer
    return example


def check_examples(client: TestClient, *, scores: bool) -> None:
    for command, example in EXAMPLES:
        answer = send(client, command).json()
        assert answer == same(answer, json.loads(example), scores=scores), command


def test_the_examples_with_a_stand_in(make_client: ClientFactory) -> None:
    check_examples(make_client(api_keys=""), scores=False)


def test_the_examples_with_the_real_model(make_client: ClientFactory, reranker: Reranker) -> None:
    check_examples(make_client(reranker), scores=True)


def test_every_route_has_an_example() -> None:
    shown = {urlsplit(shlex.split(command)[2]).path for command, _ in EXAMPLES}
    assert shown == {route.split()[0] for route in ROUTES} - {"/score"} | {"/live", "/ready", "/v1/highlight"}
