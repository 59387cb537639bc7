from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.service.bodies import NotGzip, parse_object, unpacked
from connector.service.errors import ServiceError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.slow
@given(st.dictionaries(st.text(), json_values), st.booleans())
def test_any_object_comes_out_as_it_went_in(value: dict[str, Any], ascii_only: bool) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_surrogates_leave_text_that_is_unicode(key: str, text: str) -> None:
    parsed = parse_object(json.dumps({"k": {key: [text]}}).encode())
    json.dumps(parsed, ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (r'"a\ud800b"', "a�b"),
        (r'"\udc00\ud800"', "��"),
        (r'"\ud83d\ude00"', "😀"),
        (r'"\\ud800"', r"\ud800"),
        (r'"nul\u0000"', "nul\0"),
    ],
)
def test_lone_surrogates_become_replacement_characters(text: str, wanted: str) -> None:
    assert parse_object(b'{"k":' + text.encode() + b"}") == {"k": wanted}


def test_of_a_key_given_twice_the_last_counts() -> None:
    assert parse_object(b'{"a":1,"a":2}') == {"a": 2}


def test_a_byte_order_mark_is_let_pass() -> None:
    assert parse_object(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON.*line 1, column 2"),
        (b"[]", "must be a JSON object, not a list"),
        (b"3", "not a number"),
        (b"null", "not null"),
        (b'"x"', "not text"),
        (b"true", "not true or false"),
        (b'{"a":NaN}', "NaN is not a JSON number"),
        (b'{"a":-Infinity}', "Infinity is not"),
        (b'{"a":1e999}', "too large a number"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a":"\xff"}', r"not UTF-8 \(byte 6\)"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "deeper than 100"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deeper than 100"),
    ],
)
def test_what_is_not_an_object_is_refused_in_one_line(body: bytes, message: str) -> None:
    with pytest.raises(ServiceError, match=message) as caught:
        parse_object(body)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


def test_gzip_of_several_members_is_what_they_hold_together() -> None:
    whole = gzip.compress(b'{"query":') + gzip.compress(b' "a"}')
    assert unpacked(whole, 1) == b'{"query": "a"}'
    assert unpacked(gzip.compress(b""), 1) == b""
    for damaged in (whole + b"junk", whole[:-1], b"", b"{}"):
        with pytest.raises(NotGzip):
            unpacked(damaged, 1)
    with pytest.raises(ServiceError, match="larger than 1 MB when unpacked"):
        unpacked(gzip.compress(bytes(600_000)) * 2, 1)
