"""The report's page: what it says, that it needs nothing else, and that documents stay text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from connector.charts import BETTER, INK, WORSE
from connector.evaluation.answering.charts import changes_chart, rows_chart, windows_chart
from connector.evaluation.answering.page import report_page
from connector.evaluation.answering.verdict import verdict_of
from connector.evaluation.answering.view import one_window, recall, shown_rows, window_sizes
from connector.sections import Settings
from tests.evaluation.answering.judged import judged, report_of

ROWS = {("routed", "pool"): (12, 4), ("routed+first-stage", "pool"): (15, 2), ("permuted", "pool"): (1, 1)}
SETTINGS = Settings()


class Parsed(HTMLParser):
    """Tags, addresses and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.relevant = 0
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.relevant += ("class", "relevant") in attrs
        self.outside += [f"{name}={value}" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


def page_of(queries: int = 20, rows: dict[tuple[str, str], tuple[int, int]] = ROWS) -> str:
    collection, windows = judged(queries)
    report, ranked = report_of(collection, rows)
    verdict = verdict_of(report, SETTINGS)
    assert verdict is not None
    return report_page(report, verdict, ranked, collection, windows, SETTINGS, 987_000_000)


@pytest.fixture(scope="module")
def page() -> Parsed:
    return Parsed(page_of())


def test_the_verdict_comes_first(page: Parsed) -> None:
    assert page.tags[page.tags.index("body") + 1 :][:2] == ["main", "h1"]
    title, _, verdict, counts, advice = page.texts[:5]
    assert title == "Better: small, rh-connector" and verdict.startswith(
        "Better than the first stage: nDCG@10 from 0.4796"
    )
    assert counts.startswith("Of 20 queries 15 won, 2 lost, 3 equal.")
    assert advice == "Set: nothing, the defaults do this."


def test_queries_stand_there_with_both_lists_and_their_relevant_hits(page: Parsed) -> None:
    assert {"15 queries won", "2 queries lost"} <= set(page.texts)
    assert page.tags.count("details") == 17
    # One relevant document in each of both lists of each query, and one that no list can have.
    assert page.relevant == 2 * 17 and page.texts.count("First stage") == page.texts.count("Reranked") == 17
    assert sum("1 relevant document is not among the first 20 hits" in text for text in page.texts) == 17
    won = page.texts[page.texts.index("15 queries won") : page.texts.index("2 queries lost")]
    # The query, then three hits, of which the right one stands second, and rises.
    first, second = won.index("First stage"), won.index("Reranked")
    assert won[1] == "<i>query</i> q00" and second - first == 8
    assert won[first + 3 : first + 6] == ["<script>good", "good", "· relevant (grade 2)"]
    assert won[second + 1 : second + 4] == ["<script>good", "good", "· relevant (grade 2) · ▲\xa01"]


def test_settings_time_memory_and_way_of_measuring_are_told(page: Parsed) -> None:
    assert {
        "no times were taken",
        "987 MB",
        "1024 MB (cache.memory_mb)",
        "rh-connector --json evaluate DATA/small",
    } <= {*page.texts}
    assert "rerank.fusion=none" in page.texts and "a control: the router, asked for another query" in page.texts
    assert any(text.startswith("50 % of the relevant documents") for text in page.texts)


def test_nothing_comes_from_outside_and_nothing_of_a_document_is_markup() -> None:
    html = page_of()
    page = Parsed(html)
    assert not page.outside and not {"script", "link", "img", "i", "b", "iframe"} & set(page.tags)
    assert "http:" not in html and "https:" not in html and not re.search(r"url\((?!#)", html)
    assert "&lt;script&gt;good" in html and "default-src &#39;none&#39;" not in html and "default-src 'none'" in html


def test_no_document_or_query_turns_the_report_around() -> None:
    collection, windows = judged(20)
    collection = replace(collection, queries={query: f"\u202e{text}" for query, text in collection.queries.items()})
    windows = {query: [replace(hit, fields={"title": "\u2067x"}) for hit in hits] for query, hits in windows.items()}
    report, ranked = report_of(collection, ROWS)
    verdict = verdict_of(report, SETTINGS)
    assert verdict is not None
    texts = Parsed(report_page(report, verdict, ranked, collection, windows, SETTINGS, 1)).texts
    assert "\ufffd<i>query</i> q00" in texts and "\ufffdx" in texts
    assert not {"\u202e", "\u2067"} & set("".join(texts))


def test_what_to_set_is_a_command_where_it_is_no_default() -> None:
    collection, windows = judged(20)
    report, ranked = report_of(collection, ROWS)
    settings = SETTINGS.model_copy(update={"rerank": SETTINGS.rerank.model_copy(update={"window": 50})})
    verdict = verdict_of(report, settings)
    assert verdict is not None
    html = report_page(report, verdict, ranked, collection, windows, settings, 1)
    assert "<pre>rh-connector --set rerank.window=50 serve</pre>" in html
    # Not every system tells the memory of a process.
    assert "memory of this evaluation" in html
    unknown = report_page(report, verdict, ranked, collection, windows, settings, 0)
    assert "memory of this evaluation" not in unknown


@pytest.mark.parametrize(
    "rows", [{("routed+first-stage", "pool"): (0, 0)}, {("routed+first-stage", "pool"): (0, 20)}]
)
def test_no_gain_nothing_to_set(rows: dict[tuple[str, str], tuple[int, int]]) -> None:
    texts = Parsed(page_of(rows=rows)).texts
    assert "Nothing: these queries do not show that reranking gains." in texts and "0 queries won" in texts


def test_of_many_queries_those_that_changed_most() -> None:
    page = Parsed(page_of(60, {("routed+first-stage", "pool"): (50, 0)}))
    assert "50 queries won" in page.texts and "The 25 that changed most." in page.texts
    assert page.tags.count("details") == 25


def test_charts_show_each_query_and_each_row() -> None:
    collection, _ = judged(20)
    report, _ = report_of(collection, ROWS)
    verdict = verdict_of(report, SETTINGS)
    assert verdict is not None
    changes, rows = changes_chart(verdict, report), rows_chart(report, verdict)
    assert 'aria-label="15 queries won, 3 equal, 2 lost"' in changes
    assert (changes.count(f"fill: {BETTER}"), changes.count(f"fill: {WORSE}")) == (15, 2 + 3)
    for system in report.systems:
        marked = f">{system.label()}{' (judged)' if system is verdict.system else ''}</text>"
        assert (marked in rows) == (system.comparison is not None)
    for chart in (changes, rows):
        assert chart.startswith("<svg ") and "currentColor" in chart and INK not in chart
    # The same numbers give the same page, and no two parts of it one name.
    html = page_of()
    names = re.findall(r' id="([^"]+)"', html)
    assert html == page_of() and len(names) == len(set(names))
    assert [row.is_judged for row in shown_rows(report, verdict, SETTINGS)] == [False, False, True, False]


@pytest.mark.parametrize(
    ("window", "share", "told"),
    [
        (3, 0.5, "50 % of the relevant documents are among these hits. A larger window can hold more; "),
        (3, 0.999, "99 % of the relevant documents are among these hits. A larger window can hold more; "),
        (20, 0.5, "50 % of the relevant documents are among these hits. A larger window cannot hold more: no query "),
        (20, 1.0, "All relevant documents are among these hits: a larger window cannot hold more of them."),
        (3, 1.0, "All relevant documents are among these hits: a larger window cannot hold more of them."),
    ],
)
def test_what_a_larger_window_can_hold(window: int, share: float, told: str) -> None:
    collection, windows = judged(20)
    report, ranked = report_of(collection, ROWS)
    report = replace(report, window=window, recall=share)
    assert str(recall(report, windows)).startswith(told)
    verdict = verdict_of(report, SETTINGS)
    assert verdict is not None
    texts = Parsed(report_page(report, verdict, ranked, collection, windows, SETTINGS, 1)).texts
    assert recall(report, windows) in texts and recall(replace(report, recall=None), windows) is None


@pytest.mark.parametrize(
    ("layout", "window", "told"),
    [
        ("late", 20, "Measure again with another --window: in the layout late a document's score depends on"),
        ("solo", 20, "No query has more than 3 hits here: too few for smaller windows."),
        ("solo", 3, "A window of 3 hits is too small to hold smaller ones. Measure again with a greater --window."),
    ],
)
def test_why_no_smaller_window_is_shown(layout: str, window: int, told: str) -> None:
    collection, windows = judged(20)
    report, _ = report_of(collection, ROWS)
    report = replace(report, window=window, provenance=replace(report.provenance, layout=layout))
    assert one_window(report, windows).startswith(told)
    cascade = replace(report.provenance, layout="solo", second_model="larger", second_hits=2)
    both = replace(report, provenance=cascade)
    assert "which hits the second LLM reads depends on it" in one_window(both, windows)


def test_where_no_query_changed_there_is_no_empty_diagram() -> None:
    equal = page_of(rows={("routed+first-stage", "pool"): (0, 0)})
    assert "No query changed: each has the same nDCG@10" in equal and "A bar a query" not in equal
    assert equal.count("<svg") == 1 and page_of().count("<svg") == 2
    assert "No query changed" not in page_of(rows={("routed+first-stage", "pool"): (0, 1)})


def test_smaller_windows_are_shown_where_they_are_known() -> None:
    collection, windows = judged(20)
    report, ranked = report_of(collection, ROWS)
    verdict = verdict_of(report, SETTINGS)
    assert verdict is not None and not window_sizes(verdict, ranked)
    assert any(text.startswith("Measure again with another --window") for text in Parsed(page_of()).texts)
    whole = verdict.system.measures["nDCG@10"]
    first = report.systems[0].measures["nDCG@10"]
    known = [replace(own, by_window={5: first - 0.01, 10: first, 20: whole}) for own in ranked]
    sizes = window_sizes(verdict, known)
    assert [size.hits for size in sizes] == [5, 10, 20]
    assert [size.difference for size in sizes] == pytest.approx([-0.01, 0, whole - first])
    texts = Parsed(report_page(report, verdict, known, collection, windows, SETTINGS, 1)).texts
    assert "−0.0100" in texts and "difference to the first stage" in texts
    assert "hits reranked" in texts and "hits reranked" in windows_chart(sizes)
