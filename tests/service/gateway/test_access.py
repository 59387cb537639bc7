from __future__ import annotations

import pytest

from connector.service.gateway.access import check_access
from connector.service.gateway.cluster_errors import GatewayError


def status(method: str, path: str, *, writes: bool = False) -> int:
    try:
        check_access(method, path.encode("latin-1"), writes=writes)
    except GatewayError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[("GET", path) for path in ["/", "/_cat/indices", "/books/_mapping", "/books/_doc/1", "/_cluster/health"]],
        *[("HEAD", path) for path in ["/", "/books"]],
        *[("POST", path) for path in ["/_search", "/books/_search", "/books,films*/_search/", "/_all/_search"]],
        *[
            ("POST", path)
            for path in ["/_msearch", "/books/_count", "/_mget", "/books/_field_caps", "/_search/scroll"]
        ],
        *[("POST", path) for path in ["/books/_validate/query", "/books/_explain/a%2Fb", "/_analyze", "/_rank_eval"]],
        *[
            ("POST", path)
            for path in ["/books/_search/point_in_time", "/books/_pit", "/_render/template/x", "/_query"]
        ],
        *[("POST", path) for path in ["/books/_terms_enum", "/_plugins/_ppl", "/_scripts/painless/_execute"]],
        ("POST", "/%3Clogs-%7Bnow%2Fd%7D%3E/_search"),
        ("POST", "/bücher/_search".encode().decode("latin-1")),
        *[("DELETE", path) for path in ["/_search/scroll", "/_search/scroll/abc==", "/_pit", "/_async_search/id"]],
        ("DELETE", "/_search/point_in_time"),
    ],
)
def test_reads_pass(method: str, path: str) -> None:
    assert status(method, path) == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[("PUT", path) for path in ["/books", "/books/_doc/1", "/_search", "/books/_search"]],
        *[("DELETE", path) for path in ["/books", "/_search", "/books/_doc/1", "/*", "/_async_search/a/b"]],
        *[
            ("POST", path)
            for path in ["/books/_doc", "/books/_doc/_search", "/_bulk", "/books/_update/1", "/_reindex"]
        ],
        *[("POST", path) for path in ["/x/_delete_by_query", "/books/_update_by_query", "/_aliases", "/_reindex"]],
        # Names of endpoints where an index is expected, and other disguises.
        *[
            ("POST", path)
            for path in ["/_bulk/_search", "/_doc/_search", "/books/type/_search", "//_search", "/a//_search"]
        ],
        *[("POST", path) for path in ["/%5Fbulk", "/%5Fbulk/_search", "/books/%5Fsearch", "/_%73earch", "/_SEARCH"]],
        *[("POST", path) for path in ["/books%2F_doc/_search", "/books%252F_doc/_search", "/books/_search/x"]],
        *[("POST", path) for path in ["/books/_explain", "/books/_doc/1/_search", "/a%2Fd/_search", "/", ""]],
        ("PATCH", "/books/_search"),
    ],
)
def test_all_else_is_a_write(method: str, path: str) -> None:
    assert status(method, path) == 403
    assert status(method, path, writes=True) == 200


@pytest.mark.parametrize(
    "path", ["/books/../_bulk", "/%2e%2e/x", "/books/%2E/_search", "/a%2f..%2fb", "/a%00/_search", "/..%5Cx"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_paths_that_lead_elsewhere_are_refused(method: str, path: str) -> None:
    assert status(method, path) == status(method, path, writes=True) == 400


def test_the_refusal_says_what_would_let_it_pass() -> None:
    with pytest.raises(GatewayError, match="serve.gateway_writes"):
        check_access("POST", b"/_bulk", writes=False)
