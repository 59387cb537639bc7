"""How this copy was installed, and the command that adds to it what is missing.

::

    checkout    PYTHON -m pip install -e 'FOLDER[extra]'
    wheel       PYTHON -m pip install 'rh-connector[extra]'; of uv and pipx their own commands
    container   docker build … --build-arg EXTRAS=…: what is installed into a container ends with it
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["IMAGE_RECORD", "Installation", "extra_of", "find_installation", "this_installation"]

IMAGE_RECORD = "rh-connector-image"
"""File of an image's environment, written by its Dockerfile: the Dockerfile's path and the extras, a line each."""

_NAME = "rh-connector"
# Names of earlier releases: what they brought comes with rh-connector itself.
_EMPTY = ("cpu", "serve")
# The extra that brings a package, by its import name; of two extras, the one that most need.
_EXTRAS = {
    "torch": ("torch", "transformers", "accelerate"),
    "cpu": ("onnxruntime", "onnx", "gguf", "ml_dtypes", "safetensors", "filelock", "huggingface_hub"),
    "serve": ("fastapi", "starlette", "uvicorn", "httpx2", "msgspec", "prometheus_client"),
    "vectors": ("faiss",),
    "opensearch": ("opensearchpy", "tenacity"),
    "elasticsearch": ("elasticsearch", "elastic_transport"),
    "aws": ("boto3", "botocore"),
    "evaluate": ("ir_measures", "matplotlib"),
    "export": ("onnxscript",),
    "ray": ("ray",),
}


@dataclass(frozen=True, slots=True)
class Installation:
    """One installed copy.

    Attributes:
        kind: what keeps the environment: pip, uv or pipx; or an image.
        python: the interpreter.
        checkout: folder of the sources that it runs from; None: a wheel.
        has: extras that the image or uv's tool was made with.
        dockerfile: of the image, as its path in the repository.
        source: what uv's tool was installed from, where that is no index.
    """

    kind: Literal["pip", "uv", "uv tool", "pipx", "image"]
    python: str
    checkout: Path | None = None
    has: tuple[str, ...] = ()
    dockerfile: str = ""
    source: str | None = None

    def adding(self, *extras: str) -> str:
        """The command that adds extras of rh-connector, or without any what itself needs; what is there stays."""
        extras = tuple(extra for extra in extras if extra not in _EMPTY)
        if self.kind == "image":
            return self._built(self.dockerfile, *extras)
        if self.kind == "uv tool":
            # It makes the environment anew, with what it is told alone.
            named = _with(_NAME, dict.fromkeys((*self.has, *extras)))
            return f"uv tool install {_quoted(f'{named} @ {self.source}' if self.source else named)}"
        if self.checkout is not None:
            return self.changing("-e", _with(str(self.checkout), extras))
        return self.changing(_with(_NAME, extras))

    def exchanging_onnx_runtime(self) -> str:
        """The commands that put ONNX Runtime with CUDA in the place of the one without: they share their files."""
        if self.kind == "image":
            # Of that image torch is what runs on the GPU.
            return self._built("deploy/docker/Dockerfile.gpu", "torch")
        # rh-connector itself asks for the one without: what is installed last overwrites the shared files.
        anew = "--reinstall" if self.kind in ("uv", "uv tool") else "--force-reinstall"
        return " && ".join(
            (
                self.adding("gpu"),
                self._pip("uninstall", "-y", "onnxruntime"),
                self._pip("install", anew, "--no-deps", _quoted("onnxruntime-gpu")),
            )
        )

    def changing(self, *arguments: str) -> str:
        """The command that gives ``pip install`` these arguments, for packages that no extra names."""
        given = [part if part.startswith("-") else _quoted(part) for part in arguments]
        if self.kind == "image":
            return f"docker build, of a file with: FROM this image, USER root, RUN pip install {' '.join(given)}"
        return self._pip("install", *given)

    def _built(self, dockerfile: str, *extras: str) -> str:
        every = ",".join(dict.fromkeys((*self.has, *extras)))
        return f"docker build -f {dockerfile} --build-arg EXTRAS={every} -t {_NAME} . (in the repository)"

    def _pip(self, command: str, *arguments: str) -> str:
        given = " ".join(arguments)
        if self.kind == "pipx":
            return f"pipx runpip {_NAME} {command} {given}"
        if self.kind in ("uv", "uv tool"):
            # It asks nothing.
            return f"uv pip {command} --python {shlex.quote(self.python)} {given.removeprefix('-y ')}"
        return f"{shlex.quote(self.python)} -m pip {command} {given}"


def this_installation() -> Installation:
    """How the copy that runs was installed."""
    return find_installation(Path(sys.prefix), Path(__file__).parent.parent, sys.executable, _has_pip())


def extra_of(module: str) -> str | None:
    """The extra that brings a module; None: a part of rh-connector's own, or nothing that it needs."""
    package = module.partition(".")[0]
    return next((extra for extra, brings in _EXTRAS.items() if package in brings), None)


def find_installation(prefix: Path, root: Path, python: str, has_pip: bool) -> Installation:
    """How a copy was installed.

    Args:
        prefix: folder of its environment (``sys.prefix``).
        root: folder that holds the package ``connector``.
        python: its interpreter.
        has_pip: whether that interpreter has pip.
    """
    image, receipt = prefix / IMAGE_RECORD, prefix / "uv-receipt.toml"
    if image.is_file():
        dockerfile, _, extras = image.read_text(encoding="utf-8").strip().partition("\n")
        return Installation("image", python, has=tuple(filter(None, extras.split(","))), dockerfile=dockerfile)
    checkout = root if (root / "pyproject.toml").is_file() else None
    if receipt.is_file() and checkout is None:
        extras_of, source = _of_receipt(receipt)
        return Installation("uv tool", python, has=extras_of, source=source)
    if (prefix / "pipx_metadata.json").is_file():
        return Installation("pipx", python, checkout)
    return Installation("pip" if has_pip else "uv", python, checkout)


def _of_receipt(receipt: Path) -> tuple[tuple[str, ...], str | None]:
    try:
        wanted = tomllib.loads(receipt.read_text(encoding="utf-8"))["tool"]["requirements"]
        own = next(entry for entry in wanted if entry["name"] == _NAME)
        place = own.get("path") or own.get("directory")
        return tuple(own.get("extras", ())), own.get("url") or (Path(place).as_uri() if place else None)
    except (OSError, ValueError, LookupError, StopIteration):
        # Another uv may write it otherwise; what it installed from is then its index.
        return (), None


def _has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _with(name: str, extras: Iterable[str]) -> str:
    listed = ",".join(extras)
    return f"{name}[{listed}]" if listed else name


def _quoted(requirement: str) -> str:
    # Always quoted: brackets mean something to shells, and shlex leaves them.
    return f"'{requirement}'" if "'" not in requirement else shlex.quote(requirement)
