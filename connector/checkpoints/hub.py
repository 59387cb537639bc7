"""Checkpoints from the Hugging Face hub."""

from __future__ import annotations

import re
import textwrap
from contextlib import suppress
from pathlib import Path

from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.file_hashes import write_json
from connector.checkpoints.package_files import Progress
from connector.errors import BackboneError, MissingExtraError
from connector.storage_faults import is_storage_fault, os_error_of, storage_mend

__all__ = ["is_hub_id", "noted_snapshot", "obtain_from_hub"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED = [
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "*.safetensors",
    "*.safetensors.index.json",
]
_ELSE = "name a folder or GGUF file that holds the model (backbone.model)"
_BY_HAND = f"check the network and HTTPS_PROXY, or {_ELSE}"
# Other exports of the same weights: in folders, and Mistral's own format.
_UNWANTED = ["*/*", "consolidated*"]


def is_hub_id(model: str) -> bool:
    """Whether this reads as ``owner/name``."""
    return _HUB_ID.fullmatch(model) is not None


def obtain_from_hub(model: str, *, cache: Path, offline: bool, progress: Progress) -> Checkpoint:
    """The hub's checkpoint, in the hub's own cache; fetched where it isn't there yet.

    Raises:
        BackboneError: offline and not here, no such model, not reachable, no safetensors weights.
        MissingExtraError: huggingface_hub is not installed.
    """
    if (found := noted_snapshot(model, cache)) is not None:
        return found
    folder = _snapshot(model, offline=offline, progress=progress)
    try:
        checkpoint = Checkpoint.open(folder, model, cache)
    except BackboneError as error:
        if list(folder.glob("*.safetensors")):
            raise
        if not (folder / "config.json").is_file():
            raise BackboneError(f"{model} on the hub is not a model in transformers' format") from None
        raise BackboneError(
            f"{model} on the hub has no safetensors weights (pickled weights are refused); "
            f"take another revision or model: {error}"
        ) from None
    if not (offline or _offline_variable()):
        # What an offline call finds may be the rest of somebody's broken download: only a whole one is noted.
        # Where the note cannot be written (a read-only cache, a full disk), the next call asks the hub again.
        with suppress(OSError):
            write_json(_marker(model, cache), {"model": model, "path": str(folder)})
    return checkpoint


def noted_snapshot(model: str, cache: Path) -> Checkpoint | None:
    """The hub's checkpoint where it was found whole before: the hub is not asked.

    Raises:
        MissingExtraError: safetensors is not installed.
    """
    marker = _marker(model, cache)
    if (known := _known(marker)) is not None:
        try:
            return Checkpoint.open(known, model, cache)
        except BackboneError:
            # The hub's cache was cleaned in between. Where nothing can be written, the note stays and is passed over.
            with suppress(OSError):
                marker.unlink(missing_ok=True)
    return None


def _marker(model: str, cache: Path) -> Path:
    return cache / "models" / "hub" / f"{model.replace('/', '--')}.json"


def _known(marker: Path) -> Path | None:
    import json

    try:
        path = Path(json.loads(marker.read_text(encoding="utf-8"))["path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return path if path.is_dir() else None


def _snapshot(model: str, *, offline: bool, progress: Progress) -> Path:
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
        )
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "huggingface_hub", "cpu") from None
    variable = not offline and constants.HF_HUB_OFFLINE
    offline = offline or variable
    if not offline:
        progress(f"downloading {model} from the hub", None)
    try:
        return Path(
            snapshot_download(model, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, local_files_only=offline)
        )
    except GatedRepoError:
        raise BackboneError(
            f"{model} is gated on the hub: accept its terms there, then log in with: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise BackboneError(
            f"the hub has no model {model}, or it is private; check the name, or log in with: hf auth login"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        if offline:
            setting = "the environment variable HF_HUB_OFFLINE" if variable else "backbone.offline"
            raise BackboneError(
                f"{model} is not in the hub's cache and {setting} is set; run once with the network and without it: "
                f"rh-connector model pull {model}; or {_ELSE}"
            ) from None
        raise BackboneError(f"cannot reach the hub for {model}: {_one_line(error)}; {_BY_HAND}") from None
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        fault = os_error_of(error)
        if fault is not None and is_storage_fault(fault):
            mend = storage_mend(fault, "set HF_HOME to another folder")
            raise BackboneError(f"cannot keep {model} in the hub's cache: {fault.strerror}; {mend}") from None
        raise BackboneError(f"cannot fetch {model} from the hub: {_one_line(error)}; {_BY_HAND}") from None


def _offline_variable() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _one_line(error: Exception) -> str:
    return textwrap.shorten(str(error), 150, placeholder=" …") or type(error).__name__
