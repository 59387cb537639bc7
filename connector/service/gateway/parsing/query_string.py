"""The words in Lucene's query syntax, without its signs."""

from __future__ import annotations

import re

__all__ = ["words_of_query_string", "words_of_simple_query_string"]

_TOKEN = re.compile(
    r"""
    (?P<range> [\[{] [^\[\]{}]{0,100}? \bTO\b [^\[\]{}]{0,100} [\]}] )
  | (?P<regex> (?<![^\s:(]) / (?:\\.|[^/\\])+ / )
  | (?P<phrase> " (?:\\.|[^"\\])* "? )
  | (?P<open> \( ) | (?P<close> \) )
  | (?P<field> (?:\\.|[\w.*@-])+ : (?=\S) )
  | (?P<compare> [<>]=?\S* )
  | (?P<suffix> [~^] [\d.]* )
  | (?P<word> (?:\\.|[^\s()"~^\\])+ )
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)")
_WILDCARDS = re.compile(r"(?<!\\)(?:[*|]|\?(?=\w))")
_SIGNS_ONLY = re.compile(r"[!-/:-@\[-`{-~]+")
_PLAIN_WORD = re.compile(r'(?:\\.|[^\s()"~^\\])+')
# Far more than is read of a query.
_LONGEST = 4096
_OPERATORS = frozenset({"AND", "OR", "&&", "||"})


def words_of_query_string(text: str) -> str:
    """``title:(cats AND dogs) -birds "sleep well"~2`` → ``cats dogs sleep well``: what must not match is left out."""
    return _words(text, with_fields=True)


def words_of_simple_query_string(text: str) -> str:
    """``"sleep well" +cats -birds | dog*`` → ``sleep well cats dog``: what must not match is left out."""
    return _words(text, with_fields=False)


def _words(text: str, *, with_fields: bool) -> str:
    text = text[:_LONGEST]
    words: list[str] = []
    # Depth of open brackets, and the depth at which something that must not match began.
    depth, refused = 0, None
    negated = False
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            at += 1
            continue
        kind, token = str(found.lastgroup), found.group()
        if not with_fields and kind in ("field", "range", "regex", "compare"):
            # These have no meaning there: they are words like others.
            plain = _PLAIN_WORD.match(text, at)
            kind, token = "word", text[at] if plain is None else plain.group()
        at += len(token)
        if kind == "field":
            negated = negated or token[0] in "-!"
            continue
        if kind == "open":
            depth += 1
            if negated and refused is None:
                refused = depth
        elif kind == "close":
            if refused == depth:
                refused = None
            depth = max(0, depth - 1)
        elif kind == "word":
            if token in ("NOT", "!", "-") and (with_fields or token != "NOT"):
                negated = True
                continue
            if with_fields and token in _OPERATORS:
                continue
            denied = negated or (token[0] in "-!" and (with_fields or token[0] == "-"))
            # "-(birds fish)", -"song birds": the sign stands alone before a bracket or a quote.
            word = _plain(token)
            if not word and token[0] in "-!":
                negated = True
                continue
            if not denied and refused is None and word:
                words.append(word)
        elif kind == "phrase" and not negated and refused is None:
            words.append(_ESCAPE.sub(r"\1", token.strip('"')).strip())
        if kind != "suffix":
            negated = False
    return " ".join(" ".join(words).split())


def _plain(token: str) -> str:
    bare = token.lstrip("+-!|&")
    # Escaped signs are letters of the word; wildcards are not.
    kept = _ESCAPE.sub(r"\1", _WILDCARDS.sub(" ", bare)).strip()
    return "" if _SIGNS_ONLY.fullmatch(kept) else kept
