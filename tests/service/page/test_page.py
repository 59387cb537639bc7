"""The page over HTTP: what it answers, to whom, and that nothing of a document becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from connector.cli import main
from connector.cli.context import Context
from connector.documents import RankedHit, RerankResult
from connector.engines.open_engine import open_engine
from connector.explanation import explain
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.service.page.access import closed_because
from connector.settings import load_settings
from tests.loaded_models import LoadedModels
from tests.reranking.test_cascade import with_second
from tests.service.page.conftest import EVIL, QUERY, TEXTS, PageClient, settings_of
from tests.service.standin import Deaf, StandIn, not_reranked

ASKED = {"q": QUERY}
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


class Parsed(HTMLParser):
    """Tags, and texts of the hits in both lists."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def order(self, prefix: str) -> list[int]:
        """Keys of the hits of a list: ``b`` before, ``a`` after reranking."""
        ids = [attributes.get("id") or "" for tag, attributes in self.tags if tag == "li"]
        return [int(identity[1:]) for identity in ids if identity.startswith(prefix)]


@pytest.mark.parametrize("path", ["/", "/ui"])
def test_both_lists(make_page: PageClient, reranker: Reranker, page_settings: Settings, path: str) -> None:
    answer = make_page(reranker).get(path, params=ASKED)
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    parsed = Parsed(answer.text)
    with open_engine(page_settings) as engine:
        hits = engine.search(QUERY, 20)
    expected = [hit.index for hit in reranker.rerank(QUERY, hits).hits]
    assert parsed.order("b") == list(range(len(hits))) and parsed.order("a") == expected != parsed.order("b")
    assert sum(tag == "details" for tag, _ in parsed.tags) == len(hits)
    assert "<mark>" in answer.text and "encode documents" in answer.text


def test_the_numbers_are_those_of_the_explanation(
    make_page: PageClient,
    reranker: Reranker,
    models: LoadedModels,
    indexes: Path,
    page_settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the page, on the command line and over HTTP: one explanation."""
    client = make_page(reranker)
    with open_engine(page_settings) as engine:
        hits = engine.search(QUERY, 20)
    explanation = explain(reranker.rerank(QUERY, hits))
    assert explanation is not None
    own = explanation.to_json()
    arguments = ["--json", "--set", f"engine.url={indexes}", "--set", "engine.index=pets", "search", "--explain"]
    with pytest.raises(SystemExit):
        main([*arguments, QUERY], Context(models=models))
    assert json.loads(capsys.readouterr().out)["explanation"] == json.loads(json.dumps(own))
    documents = ["\n".join(hit.fields[name] for name in ("title", "text")) for hit in hits]
    scores = [hit.score for hit in hits]
    # Escaped: one of the texts is no Unicode.
    body = json.dumps({"query": QUERY, "documents": documents, "first_stage_scores": scores})
    told = client.post("/v1/explain", content=body)
    without_ids = {**own, "hits": [{k: v for k, v in hit.items() if k != "id"} for hit in own["hits"]]}
    assert told.json()["explanation"] == json.loads(json.dumps(without_ids))
    html = client.get("/ui", params=ASKED).text
    for hit in explanation.hits:
        (details,) = re.findall(rf'<details id="d{hit.index}">(.*?)</details>', html, re.DOTALL)
        counted = [*(signal.counted for signal in hit.signals), explanation.workings.bias]
        for number in counted:
            assert f"{number:+.3f}".replace("-", "−") in details or f"{number:+.4f}".replace("-", "−") in details
        assert hit.probability is not None and f"{round(100 * hit.probability)} %" in details


def test_other_units(make_page: PageClient, reranker: Reranker) -> None:
    by_rank = Reranker(reranker.reader, reranker.routes, fusion="rrf")
    html = make_page(by_rank).get("/ui", params=ASKED).text
    assert "the sum, in reciprocal ranks" in html and "rank 1 of the LLM&#39;s scores" in html
    assert "chance of being relevant" not in html and "Signals in the LLM's score" in html


@pytest.mark.slow
def test_many_heads_show_those_that_count_most(make_page: PageClient, late_reranker: Reranker) -> None:
    client = make_page(late_reranker, backbone__layout="late")
    html = client.get("/ui", params={**ASKED, "mode": "all"}).text
    route = late_reranker.routes.route(QUERY, "all")
    told = re.findall(r"<h4>Signals in the LLM's score</h4>(.*?)</table>", html, re.DOTALL)
    assert told and "the sum, in standard deviations" in html
    lines = min(len(route.signals), 13)
    assert all(table.count('<th scope="row">') == lines for table in told)


def test_documents_and_queries_are_text_whatever_they_hold(make_page: PageClient) -> None:
    query = 'sleep"><script>alert(1)</script>'
    html = make_page().get("/ui", params={"q": query}).text
    parsed = Parsed(html)
    assert sum(tag == "script" for tag, _ in parsed.tags) == 1
    assert not {"img", "b>id"} & {tag for tag, _ in parsed.tags}
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    (value,) = [attributes["value"] for _, attributes in parsed.tags if attributes.get("id") == "q"]
    assert value == query
    assert EVIL[:40] in parsed.text and "evil<b>id</b>" in parsed.text


def test_nothing_comes_from_elsewhere(make_page: PageClient) -> None:
    answer = make_page().get("/ui", params=ASKED)
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in str(policy) and policy["form-action"] == "'self'"
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    for tag, attributes in Parsed(answer.text).tags:
        assert "style" not in attributes and "src" not in attributes
        href = attributes.get("href")
        assert href is None or href.startswith(("#", "data:")), (tag, href)
    assert answer.headers["referrer-policy"] == "no-referrer" and answer.headers["cache-control"] == "no-store"


def test_window_and_mode(make_page: PageClient) -> None:
    reranker = StandIn()
    client = make_page(reranker)
    parsed = Parsed(client.get("/ui", params={**ASKED, "window": 2, "mode": "static"}).text)
    assert len(parsed.order("a")) == 2 and reranker.modes[-1] == "static"
    chosen = [attributes["value"] for tag, attributes in parsed.tags if tag == "option" and "selected" in attributes]
    assert chosen == ["2", "static"]


def test_only_modes_that_are_loaded_are_offered(make_page: PageClient, reranker: Reranker) -> None:
    html = make_page(reranker).get("/ui").text
    assert "as set (static)" in html and '<option value="routed">' in html and '<option value="all">' not in html


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"window": "many"}, "window is &#39;many&#39;; give a whole number from 1 to 200"),
        ({"window": "0"}, "give a whole number from 1 to 200"),
        ({"window": "201"}, "give a whole number from 1 to 200"),
        ({"window": "²"}, "give a whole number"),
        ({"mode": "<best>"}, "mode is &#39;&lt;best&gt;&#39;; give routed, static, all"),
        ({"q": "x" * 10_001}, "give at most 10,000"),
    ],
)
def test_a_wrong_address_names_the_key_and_the_cure(make_page: PageClient, wrong: dict[str, str], told: str) -> None:
    answer = make_page().get("/ui", params={**ASKED, **wrong})
    assert answer.status_code == 400 and told in answer.text


@pytest.mark.parametrize("options", [{}, {"serve__host": "0.0.0.0"}])
@pytest.mark.parametrize(
    ("given", "query", "window", "mode"),
    [
        ({"q": "cats", "window": "abc", "mode": "static"}, "cats", "20", "static"),
        ({"q": "cats", "window": "7", "mode": "best"}, "cats", "7", ""),
        ({"q": "cats " * 3000, "window": "7", "mode": "static"}, "cats " * 2999 + "cats", "7", "static"),
    ],
)
def test_a_wrong_address_keeps_what_else_was_given(
    make_page: PageClient, options: dict[str, str], given: dict[str, str], query: str, window: str, mode: str
) -> None:
    reranker = StandIn()
    parsed = Parsed(make_page(reranker, **options).get("/ui", params=given).text)
    (typed,) = [attributes["value"] for _, attributes in parsed.tags if attributes.get("id") == "q"]
    chosen = [attributes["value"] for tag, attributes in parsed.tags if tag == "option" and "selected" in attributes]
    assert typed == query and [*chosen, ""][:2] == [window, mode] and reranker.asked == []


def test_no_document_turns_the_page_around(make_page: PageClient, reranker: Reranker) -> None:
    turning = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    answer = make_page(reranker).get("/ui", params={"q": f"sleep {turning}"})
    parsed = Parsed(answer.text)
    # In the snippet and in the text.
    assert parsed.text.count("\ufffdover\ufffd") == 2 and not set(turning) & set(parsed.text)
    # A search for them is still a search for them.
    (typed,) = [attributes["value"] for _, attributes in parsed.tags if attributes.get("id") == "q"]
    assert typed == f"sleep {turning}"


def test_without_a_query(make_page: PageClient) -> None:
    reranker = StandIn()
    for params in ({}, {"q": "  "}):
        answer = make_page(reranker).get("/", params=params)
        assert answer.status_code == 200 and "Type a question" in answer.text
    assert reranker.asked == []


def test_nothing_found(make_page: PageClient) -> None:
    assert "Nothing found" in make_page().get("/ui", params={"q": "zzzz"}).text


def test_without_an_index(make_page: PageClient) -> None:
    html = make_page(engine__index="nowhere").get("/ui", params=ASKED).text
    assert "The search failed: there is no index in" in html and "rh-connector index" in html


def test_while_the_model_is_loading_the_first_stage_is_shown(make_page: PageClient) -> None:
    go_on = threading.Event()

    def load(settings: Settings) -> StandIn:
        assert go_on.wait(20)
        return StandIn()

    answer = make_page(load, ready=False).get("/ui", params=ASKED)
    go_on.set()
    assert answer.status_code == 200 and "Not reranked: the model is being loaded" in answer.text
    parsed = Parsed(answer.text)
    assert parsed.order("a") == parsed.order("b") != [] and "details" not in dict(parsed.tags)


def test_a_failure_keeps_the_first_stage(make_page: PageClient) -> None:
    html = make_page(StandIn(not_reranked("deadline"))).get("/ui", params=ASKED).text
    assert "Not reranked (deadline)" in html
    assert Parsed(html).order("a") == Parsed(html).order("b")


def test_a_batch_under_way_does_not_hold_the_page(make_page: PageClient) -> None:
    deaf = Deaf()
    with deaf.held():
        html = make_page(StandIn(deaf), rerank__deadline_ms=300).get("/ui", params=ASKED).text
        assert "Not reranked (deadline)" in html
        assert Parsed(html).order("a") == Parsed(html).order("b") != []


def test_a_deadline_does_not_shorten_the_first_stage(make_page: PageClient) -> None:
    html = make_page().get("/ui", params=ASKED, headers={"X-Rerank-Deadline-Ms": "0.001"}).text
    assert "Not reranked (deadline)" in html and Parsed(html).order("a") != []


def test_a_full_house_is_told(make_page: PageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_page()
    app: Any = client.app
    monkeypatch.setattr(app.state.admission, "_most", 0)
    assert "Too many requests wait already" in client.get("/ui", params=ASKED).text


def test_long_documents_show_what_was_looked_at(make_page: PageClient) -> None:
    """The passage stands in the snippet, with whole words."""

    def behaviour(query: str, documents: Any, *_: object) -> RerankResult:
        hits = []
        for at, document in enumerate(documents):
            found = re.search(r"welve and sixtee", document)
            hits.append(RankedHit(at, 1.0, 1.0, passage=None if found is None else found.span()))
        return RerankResult(tuple(hits), True)

    html = make_page(StandIn(behaviour)).get("/ui", params=ASKED).text
    assert html.count("<mark>twelve and sixteen</mark>") == 2


@pytest.mark.parametrize(
    ("options", "is_open"),
    [
        ({}, True),
        ({"serve.host": "localhost"}, True),
        ({"serve.host": "0.0.0.0"}, False),
        ({"serve.host": "0.0.0.0", "serve.api_keys": "k"}, True),
        ({"serve.host": "0.0.0.0", "serve.page": "true"}, True),
        ({"serve.page": "false"}, False),
        ({"serve.host": "::", "engine.kind": "opensearch"}, True),
        ({"serve.host": "::", "engine.kind": "opensearch", "serve.gateway": False}, False),
        ({"serve.host": "::", "engine.kind": "opensearch", "engine.username": "u"}, False),
        ({"serve.host": "::", "engine.kind": "elasticsearch", "engine.url": "https://u:p@h:1"}, False),
    ],
)
def test_who_may_see_the_index(options: dict[str, Any], is_open: bool) -> None:
    reason = closed_because(load_settings(options=options, environment={}))
    assert (reason is None) == is_open
    assert is_open or "serve.page" in str(reason)


def test_a_closed_page_searches_nothing(make_page: PageClient) -> None:
    reranker = StandIn()
    answer = make_page(reranker, serve__host="0.0.0.0").get("/ui", params=ASKED)
    assert answer.status_code == 403 and "serve.api_keys" in answer.text
    assert not any(text in answer.text for text in TEXTS.values()) and reranker.asked == []


def test_a_browser_gives_the_key_as_a_password(make_page: PageClient) -> None:
    client = make_page(serve__api_keys="sesame")
    refused = client.get("/ui", headers=BROWSER)
    assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic ")
    assert client.get("/ui", headers=BROWSER, auth=("any", "wrong")).status_code == 401
    assert client.get("/ui", headers={"Authorization": "Basic %%%"}).status_code == 401
    for path in ("/ui", "/"):
        # Whatever else may ask: no cluster stands behind this root.
        for headers in (BROWSER, {"Accept": "*/*"}):
            assert client.get(path, params=ASKED, headers=headers, auth=("any", "sesame")).status_code == 200
            assert client.get(path, headers=headers).headers["www-authenticate"].startswith("Basic ")
    assert client.get("/ui", headers={"Authorization": "Bearer sesame"}).status_code == 200
    # Browsers add such a password to what other sites send here, too.
    body = {"query": "q", "documents": ["d"]}
    assert client.post("/v1/rerank", json=body, auth=("any", "sesame")).status_code == 401


def test_only_get(make_page: PageClient) -> None:
    client = make_page()
    for path in ("/ui", "/"):
        refused = client.post(path)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        assert client.head(path).status_code == 200


def test_the_page_is_counted_and_not_in_the_schema(make_page: PageClient) -> None:
    client = make_page()
    client.get("/ui", params=ASKED)
    client.get("/")
    assert 'rh_requests_total{route="/ui",status="200"} 2.0' in client.get("/metrics").text
    assert 'rh_reranked_total{outcome="reranked"} 1.0' in client.get("/metrics").text
    assert "/ui" not in client.get("/openapi.json").json()["paths"]


def test_settings_of_the_page(indexes: Path) -> None:
    assert settings_of(indexes).serve.page == "auto" and settings_of(indexes, serve__page="false").serve.page is False


def test_the_page_shows_what_the_second_model_adds(make_page: PageClient, reranker: Reranker) -> None:
    shown = make_page(with_second(reranker, hits=2)).get("/", params={"q": QUERY}).text
    assert "second model" in shown and "half of what it says more" in shown and "did not read this hit" in shown
    assert "second model" not in make_page(reranker).get("/", params={"q": QUERY}).text
