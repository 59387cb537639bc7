"""Terms as text."""

from __future__ import annotations

from connector.checkpoints.licences import plain_text


def test_a_page_becomes_text() -> None:
    page = """<html><head><title>no</title><script>var x = "<p>no</p>";</script></head>
    <body><nav><ul><li>no</li></ul></nav><article><h1>Terms</h1>
    <p>You   may
    use &quot;it&quot;.<br>Kindly.</p><ul><li>one</li><li>two</li></ul></article><footer>no</footer></body></html>"""
    assert plain_text(page) == 'Terms\n\nYou may use "it".\nKindly.\n\n- one\n\n- two'


def test_a_page_without_article() -> None:
    assert plain_text("<p>All <b>of</b> it") == "All of it"
    assert plain_text("") == ""
