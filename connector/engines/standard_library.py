"""Documents that are on every machine with Python: the docstrings of its standard library."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from connector.documents import Document
from connector.errors import DataError

__all__ = ["QUESTIONS", "standard_library_documents"]

QUESTIONS = (
    "how do I read a file line by line without loading it all into memory",
    "run another program and capture what it prints",
    "which items occur most often in a list",
    "remember what a function returned so that it is not computed again",
    "turn a string with a date in it into a date object",
    "make a temporary folder that goes away by itself when I am done",
)
"""Questions as a person asks them; written before their answers were looked at."""

_SHORTEST = 40
_LONGEST_SIGNATURE = 160
_SKIPPED_FOLDERS = {
    *("__pycache__", "dist-packages", "distutils", "ensurepip", "idlelib", "lib-dynload", "lib2to3", "pydoc_data"),
    *("site-packages", "test", "tests", "turtledemo"),
}
# Modules written in C have no source to parse. These are safe to import: nothing happens when they are.
_COMPILED = (
    *("array", "binascii", "builtins", "cmath", "collections", "datetime", "decimal", "functools", "gc", "hashlib"),
    *("heapq", "io", "itertools", "json", "math", "mmap", "operator", "os", "pickle", "random", "re", "select"),
    *("signal", "socket", "sqlite3", "struct", "sys", "threading", "time", "unicodedata", "weakref", "zlib"),
)
# In signatures of C: what the caller does not write.
_IMPLIED = re.compile(r"^\(\$(self|module|type)(, /)?(, )?")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def standard_library_documents() -> Iterator[Document]:
    """Docstrings of the running Python's modules, classes, functions and methods, always in the same order.

    Sources are parsed, not imported; only well-known modules written in C are. Each document has the id that one
    would write in code (``json.dumps``, ``str.split``), ``title`` (with the signature) and ``text``. Private names,
    tests, very short docstrings and repeated ones are left out.

    Raises:
        DataError: this Python comes without the sources of its library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    sources = sorted(_sources(root)) if root.is_dir() else []
    if not sources:
        raise DataError(
            f"{root} holds no sources of the standard library; use a Python that comes with them, or index "
            f"documents of your own with: rh-connector index SOURCE"
        )
    ids: set[str] = set()
    texts: set[str] = set()
    for identity, title, docstring in _all(root, sources):
        text = inspect.cleandoc(docstring).strip()
        if len(text) >= _SHORTEST and identity not in ids and text not in texts:
            ids.add(identity)
            texts.add(text)
            yield Document(identity, {"title": title, "text": text})


def _all(root: Path, sources: Iterable[Path]) -> Iterator[tuple[str, str, str]]:
    for path in sources:
        name = _module_name(path.relative_to(root))
        tree = _parse(path) if name else None
        if name and tree:
            if not path.stem.startswith("_") or path.stem == "__init__":
                yield from _described(tree, name, name)
            yield from _members(tree.body, name, in_class=False)
    for name in _COMPILED:
        try:
            module = importlib.import_module(name)
        except ImportError:
            # Optional parts of Python (sqlite3, zlib) may not have been built.
            continue
        yield from _compiled(module)


def _sources(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            if path.name not in _SKIPPED_FOLDERS and path.name.isidentifier():
                yield from _sources(path)
        elif path.suffix == ".py":
            yield path


def _module_name(path: Path) -> str | None:
    """The name that people import it by; None for what they do not import."""
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    if name in ("posixpath", "ntpath"):
        return "os.path" if name == os.path.__name__ else None
    if name == "_collections_abc":
        return "collections.abc"
    # _pyio is io in Python; a private file in a package (pathlib/_local.py) holds public classes of the package.
    parts = name.removeprefix("_py" if path.parts[0].startswith("_py") else "").split(".")
    public = [part for part in parts if not part.startswith("_")]
    return ".".join(public) if public and public[0] == parts[0] else None


def _parse(path: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            # Of the library's own code: nothing that whoever asks for documents could mend.
            warnings.simplefilter("ignore")
            source = path.read_bytes()
            try:
                return ast.parse(source)
            except SystemError:
                # Up to 3.11.7 and 3.12.1 another thread's work confuses Python's count of depths, now and then
                # (https://github.com/python/cpython/issues/106905). It begins anew with each call.
                return ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _members(body: Iterable[ast.stmt], owner: str, *, in_class: bool) -> Iterator[tuple[str, str, str]]:
    for node in body:
        if isinstance(node, _Function | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            name = f"{owner}.{node.name}"
            if isinstance(node, ast.ClassDef):
                makers = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
                yield from _described(node, name, name + (_signature(makers[0], True) if makers else ""))
                yield from _members(node.body, name, in_class=True)
            else:
                yield from _described(node, name, name + _signature(node, in_class))
        elif isinstance(node, ast.If | ast.Try):
            # Definitions that depend on the platform.
            handlers = node.handlers if isinstance(node, ast.Try) else []
            for inner in (node.body, *(handler.body for handler in handlers), node.orelse):
                yield from _members(inner, owner, in_class=in_class)


def _described(node: ast.Module | ast.ClassDef | _Function, name: str, title: str) -> Iterator[tuple[str, str, str]]:
    text = ast.get_docstring(node, clean=False)
    if text:
        yield name, title, text


def _signature(node: _Function, in_class: bool) -> str:
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    if decorators & {"property", "cached_property"}:
        return ""
    arguments = node.args
    if in_class and "staticmethod" not in decorators:
        # "self" and "cls" are not written by the caller.
        if arguments.posonlyargs:
            arguments.posonlyargs.pop(0)
        elif arguments.args:
            arguments.args.pop(0)
    written = f"({ast.unparse(arguments)})"
    return written if len(written) <= _LONGEST_SIGNATURE else "(...)"


def _compiled(module: ModuleType) -> Iterator[tuple[str, str, str]]:
    prefix = "" if module.__name__ == "builtins" else f"{module.__name__}."
    homes = {None, module.__name__, "posix", "nt", "io" if not prefix else None}
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        home = getattr(value, "__module__", None)
        if home not in homes and not str(home).startswith("_"):
            continue
        yield from _object(prefix + name, value)
        if inspect.isclass(value):
            for member, inner in sorted(vars(value).items()):
                if not member.startswith("_") and (inspect.isroutine(inner) or inspect.isdatadescriptor(inner)):
                    yield from _object(f"{prefix}{name}.{member}", inner)


def _object(name: str, value: object) -> Iterator[tuple[str, str, str]]:
    text = getattr(value, "__doc__", None)
    if isinstance(text, str):
        # __text_signature__ instead of inspect.signature: no code of the object runs, and C has it as one string.
        signature = getattr(value, "__text_signature__", None) or ""
        yield name, name + _IMPLIED.sub("(", signature), text
