"""A folder with a model that can be used: config, tokenizer and safetensors weights, checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connector.checkpoints.file_hashes import file_hashes
from connector.checkpoints.manifest import Manifest, gguf_digest
from connector.errors import BackboneError, MissingExtraError

__all__ = ["FAMILIES", "INDEX", "Checkpoint", "open_tensors"]

FAMILIES = frozenset(
    ["gemma2", "gemma3", "gemma3_text", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"]
)
"""``model_type`` of the decoders that are tried; others may work and are not refused for their name."""

_PULL_AGAIN = "run rh-connector model pull again: it is made anew"
INDEX = "model.safetensors.index.json"
"""Where weights come in several files: which of them holds which tensor."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TEXT_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """One model on disk.

    Attributes:
        path: its folder.
        name: catalogue name, folder name, or hub id.
        cache: folder in which digests are remembered; None: they are worked out in each process.
    """

    path: Path
    name: str
    cache: Path | None = None

    @classmethod
    def open(cls, path: Path, name: str, cache: Path | None = None) -> Checkpoint:
        """Check a folder.

        Raises:
            BackboneError: a file is missing or damaged, the weights are pickled, or the model needs code of
                its own.
            MissingExtraError: safetensors is not installed.
        """
        if not path.is_dir():
            raise BackboneError(
                f"{path} is not a folder; give a catalogue name, a folder, a .gguf file or owner/name"
            )
        checkpoint = cls(path, name, cache)
        config = checkpoint.config()
        _refuse_own_code(config, path)
        _check_weights(checkpoint.weight_files())
        if not (path / "tokenizer.json").is_file():
            raise BackboneError(
                f"{path} has no tokenizer.json; write it with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        return checkpoint

    def config(self) -> dict[str, Any]:
        """``config.json``.

        Raises:
            BackboneError: it is missing or not JSON.
        """
        file = self.path / "config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except OSError:
            raise BackboneError(
                f"{self.path} has no config.json; it is not a model in Hugging Face's format"
            ) from None
        except ValueError as error:
            raise BackboneError(f"{file} is not JSON: {error}; fetch the model again") from None
        if not isinstance(config, dict):
            raise BackboneError(f"{file} must hold an object; fetch the model again")
        return config

    def weight_files(self) -> tuple[Path, ...]:
        """The safetensors files that make up the weights, sorted.

        Raises:
            BackboneError: none, or only some of them are here, or the weights are pickled.
        """
        index = self.path / INDEX
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
                # An index is input like any other: it must not point out of its folder.
                files = tuple(self.path / Path(name).name for name in names)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise BackboneError(f"{index} is damaged; fetch the model again") from None
        elif (self.path / "model.safetensors").is_file():
            files = (self.path / "model.safetensors",)
        else:
            files = tuple(sorted(self.path.glob("*.safetensors")))
        if not files:
            raise BackboneError(_without_weights(self.path))
        for file in files:
            if not file.is_file():
                raise BackboneError(f"{file} is missing; fetch the model again")
        return files

    def template(self) -> str:
        """``chat`` where the checkpoint has a chat template, else ``plain``."""
        if (self.path / "chat_template.jinja").is_file() or (self.path / "chat_template.json").is_file():
            return "chat"
        try:
            settings = json.loads((self.path / "tokenizer_config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return "plain"
        return "chat" if isinstance(settings, dict) and settings.get("chat_template") else "plain"

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file that matters, remembered by size and time of change.

        Raises:
            BackboneError: a file cannot be read.
        """
        texts = tuple(file for name in _TEXT_FILES if (file := self.path / name).is_file())
        try:
            return file_hashes((*self.weight_files(), *texts), self.cache)
        except OSError as error:
            raise BackboneError(f"cannot read {error.filename}: {error.strerror}") from None

    def digest(self) -> str:
        """What identifies this model: SHA-256 over weights, config and tokenizer.

        A checkpoint that was converted here, and is as it was, is identified by its GGUF file and the version of
        the conversion: config.json and tokenizer.json differ a little between releases of the libraries that write
        them, and head sets are shipped for all of these.

        Raises:
            BackboneError: a file cannot be read.
        """
        hashes = self.hashes()
        manifest = Manifest.read(self.path)
        if manifest is not None and all(manifest.files.get(name) == value for name, value in hashes.items()):
            return gguf_digest(manifest.gguf_sha256, manifest.conversion)
        content = "".join(f"{name}\0{value}\n" for name, value in sorted(hashes.items()))
        return hashlib.sha256(content.encode()).hexdigest()

    def verify(self) -> bool:
        """Read every file of a converted checkpoint and compare with its manifest; others have nothing to compare.

        Returns:
            Whether there was a manifest.

        Raises:
            BackboneError: a file is not what was converted.
        """
        manifest = Manifest.read(self.path)
        if manifest is None:
            return False
        damage = manifest.damage(self.path, self.cache, fresh=True)
        if damage is not None:
            raise BackboneError(f"{self.path} is damaged ({damage}); {_PULL_AGAIN}")
        return True


def _refuse_own_code(config: dict[str, Any], path: Path) -> None:
    family = config.get("model_type")
    if config.get("auto_map") and family not in FAMILIES:
        raise BackboneError(
            f"{path}: the model ({family}) needs Python code of its own (auto_map), which is never run; "
            f"take one of: {', '.join(sorted(FAMILIES))}"
        )


@contextmanager
def open_tensors(file: Path) -> Iterator[Any]:
    """A safetensors file; its header is compared with its size.

    Raises:
        BackboneError: it is damaged, or cannot be read.
        MissingExtraError: a library is not installed.
    """
    try:
        # numpy learns of bfloat16 from it.
        import ml_dtypes  # noqa: F401
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "safetensors", "cpu") from None
    try:
        with safe_open(file, framework="np") as tensors:
            yield tensors
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"{file} is damaged ({' '.join(str(error).split())}); fetch the model again") from None


def _check_weights(files: tuple[Path, ...]) -> None:
    for file in files:
        # Opening shows at once that a file was cut.
        with open_tensors(file):
            pass


def _without_weights(path: Path) -> str:
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLES)
    if pickles:
        return (
            f"{path} holds pickled weights only ({pickles[0]}), which are refused: loading them runs code; "
            "save them with save_pretrained(..., safe_serialization=True)"
        )
    return f"{path} holds no *.safetensors weights; fetch the model again"
