"""What a header may carry: h11 refuses to send others, and the client gets no answer at all."""

from __future__ import annotations

import re

from h11._abnf import field_value
from hypothesis import example, given
from hypothesis import strategies as st

from connector.service.responses import one_line


@given(st.text(max_size=400))
@example("k" * 198 + ", b, c")
@example(", ".join(f"k{at}" for at in range(300)))
def test_any_text_becomes_a_header_that_can_be_sent(text: str) -> None:
    line = one_line(text)
    assert re.fullmatch(field_value.encode(), line.encode("ascii")) or line == ""
    assert len(line) <= 200 and line == line.strip()
