"""Documents of the standard library."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from connector.documents import Document
from connector.engines import standard_library
from connector.engines.standard_library import QUESTIONS, standard_library_documents
from connector.errors import DataError


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    return {document.id: document for document in standard_library_documents()}


@pytest.mark.slow
def test_thousands_of_distinct_documents(documents: dict[str, Document]) -> None:
    assert len(documents) > 3000
    texts = [document.fields["text"] for document in documents.values()]
    assert len(set(texts)) == len(texts)
    assert min(map(len, texts)) >= 40
    assert all(set(document.fields) == {"title", "text"} for document in documents.values())


@pytest.mark.parametrize(
    "identity",
    [
        "json",
        "json.dumps",
        "collections.Counter.most_common",
        "pathlib.Path.read_text",
        "os.path.join",
        "io.TextIOBase.readline",
        "functools.lru_cache",
        "tempfile.TemporaryDirectory",
        # Written in C:
        "open",
        "str.split",
        "collections.deque.append",
        "math.frexp",
        "os.listdir",
    ],
)
def test_ids_are_what_one_writes_in_code(documents: dict[str, Document], identity: str) -> None:
    assert documents[identity].fields["title"].startswith(identity)


def test_titles_carry_signatures(documents: dict[str, Document]) -> None:
    assert (
        documents["tempfile.TemporaryDirectory"]
        .fields["title"]
        .startswith("tempfile.TemporaryDirectory(suffix=None, prefix=None, dir=None")
    )
    assert documents["str.split"].fields["title"] == "str.split(sep=None, maxsplit=-1)"
    assert documents["os.listdir"].fields["title"] == "os.listdir(path=None)"
    # A property is not called.
    assert "(" not in documents["pathlib.PurePath.anchor"].fields["title"]


def test_docstrings_are_dedented(documents: dict[str, Document]) -> None:
    lines = documents["functools.lru_cache"].fields["text"].splitlines()
    assert lines[0] == "Least-recently-used cache decorator."
    assert not any(line.startswith("    ") for line in lines[1:3])


def test_what_nobody_searches_is_left_out(documents: dict[str, Document]) -> None:
    assert not any(part.startswith("_") for identity in documents for part in identity.split("."))
    assert not documents.keys() & {"idlelib", "lib2to3", "turtledemo", "antigravity"}
    assert not any(identity.startswith(("test.", "idlelib.", "site-packages")) for identity in documents)


def test_nothing_of_the_library_is_run(documents: dict[str, Document]) -> None:
    assert "this" not in sys.modules
    assert "antigravity" not in sys.modules


def test_always_the_same_order(documents: dict[str, Document]) -> None:
    again = standard_library_documents()
    assert [next(again).id for _ in range(300)] == list(documents)[:300]


def test_platform_branches_private_files_and_broken_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "Something that is long enough to be worth being found by a search."
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text(f'"""Package. {long}"""\n')
    (tmp_path / "package" / "_local.py").write_text(
        f'"""Hidden. {long}"""\n'
        f'class Public:\n    def method(self, /, one, *, two=2):\n        """Method. {long}"""\n'
        f'    def _private(self):\n        """Private. {long}"""\n'
    )
    (tmp_path / "platforms.py").write_text(
        "import sys\n"
        f'if sys.platform == "x":\n    def there(a):\n        """X. {long}"""\n'
        f'else:\n    def there(b):\n        """Not X. {long}"""\n'
        f'try:\n    pass\nexcept ImportError:\n    async def fallback():\n        """Fallback. {long}"""\n'
        'def short():\n    """Too short."""\n'
        f'def again(c):\n    """Fallback. {long}"""\n'
    )
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "old.py").write_bytes(b'# -*- coding: latin-1 -*-\n"""Caf\xe9 ' + long.encode() + b'"""\n')
    monkeypatch.setattr(standard_library.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(standard_library, "_COMPILED", ("no_such_module", "math"))
    found = {document.id: document.fields["title"] for document in standard_library_documents()}
    own = {identity: title for identity, title in found.items() if not identity.startswith("math")}
    assert own == {
        "old": "old",
        "package": "package",
        "package.Public.method": "package.Public.method(one, *, two=2)",
        "platforms.there": "platforms.there(a)",
        "platforms.fallback": "platforms.fallback()",
    }
    assert "math.frexp" in found


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_python_without_sources(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(standard_library.sysconfig, "get_path", lambda _: str(tmp_path / name))
    with pytest.raises(DataError, match="holds no sources of the standard library; .* rh-connector index SOURCE"):
        next(standard_library_documents())


def test_questions_are_questions() -> None:
    assert len(set(QUESTIONS)) == 6
    assert all(len(question.split()) > 4 for question in QUESTIONS)


def test_python_s_own_count_of_depths_may_be_wrong_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes by chance, of threads: https://github.com/python/cpython/issues/106905."""
    path = tmp_path / "a.py"
    path.write_text("x = 1\n")
    told = iter([SystemError("AST constructor recursion depth mismatch (before=1, after=0)"), None])
    parse = ast.parse

    def sometimes(source: bytes) -> ast.Module:
        error = next(told)
        if error is not None:
            raise error
        return parse(source)

    monkeypatch.setattr(ast, "parse", sometimes)
    found = standard_library._parse(path)
    assert found is not None and ast.dump(found) == ast.dump(parse(b"x = 1\n"))
