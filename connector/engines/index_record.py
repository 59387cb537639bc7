"""What stands beside an embedded index: which field has which slot, its language, and how its vectors were made."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connector.engines.text_analysis import ENGLISH
from connector.errors import EngineError
from connector.sections import LANGUAGES, Language
from connector.storage_faults import is_storage_fault, os_error_of, storage_mend
from connector.whole_files import replacing

__all__ = ["INDEX_AGAIN", "RECORD", "IndexRecord", "cause_and_mend", "check_files"]

RECORD = "rh-index.json"
INDEX_AGAIN = "index again under another name: rh-connector index SOURCE --index NAME"
"""The way on where an index cannot be used as it is. It may be whole all the same, so nothing is removed."""

# What tantivy ends its files with: a record with the checksum of all before it, how long that is, and a number.
_FOOTER_END, _FOOTER_NUMBER = 8, 1337
_SEGMENT_FILES = ("fast", "fieldnorm", "idx", "pos", "store", "term")

# tantivy writes segments of some hundred kB; what it could not finish it has removed again, in part.
_NO_ROOM = 2_000_000

# They go up when the schema or the analyzer changes. An index in English is what it was before there were languages.
_PLAIN, _WITH_VECTORS, _WITH_LANGUAGE = 2, 3, 4


def cause_and_mend(error: BaseException, folder: Path | None = None) -> str:
    """What a library said of an index, and the way on, as the end of a message.

    Args:
        error: of the library.
        folder: that was written to; None: it was read. Whether it is full is looked at where nothing is said of it:
            tantivy's threads die of that without a word.
    """
    fault = os_error_of(error)
    if fault is None and folder is not None and _is_full(folder):
        fault = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # What cannot be written there, no other index in the same folder could write; a file that lacks is damage.
    if fault is not None and (folder is not None or is_storage_fault(fault)):
        return f"{fault.strerror}; {storage_mend(fault, 'choose another folder (cache.path, engine.url)')}"
    return f"{' '.join(str(error).split())[:300]}; {INDEX_AGAIN}"


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _NO_ROOM
    except OSError:
        return False


@dataclass(frozen=True)
class IndexRecord:
    """One record.

    Attributes:
        slots: field -> number of its slot in the schema; grows while documents come.
        language: of the analysis.
        vectors: ``Vectors.record`` of the index; None: it has none.
    """

    slots: dict[str, int] = field(default_factory=dict)
    language: Language = ENGLISH
    vectors: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, folder: Path) -> IndexRecord:
        """The record of an index.

        Raises:
            EngineError: it cannot be read, is damaged, or is of another version.
        """
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            found, language, made = record["format"], record.get("language", ENGLISH), record.get("vectors")
            slots = {str(name): int(slot) for name, slot in record["slots"].items()}
            if made is not None:
                made = {"embedder": made["embedder"], "digest": str(made["digest"]), "fields": list(made["fields"])}
        except OSError as error:
            raise EngineError(f"cannot read {folder / RECORD}: {cause_and_mend(error)}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise EngineError(f"{folder / RECORD} is damaged; {INDEX_AGAIN}") from None
        own = cls(slots, language, made)
        if found != own._format or language not in LANGUAGES:
            raise EngineError(
                f"the index in {folder} has format {found}, this version reads {_PLAIN} to {_WITH_LANGUAGE}; "
                f"{INDEX_AGAIN}"
            )
        return own

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all.

        Raises:
            OSError: the folder cannot be written.
        """
        record: dict[str, Any] = {"format": self._format, "slots": self.slots}
        if self.language != ENGLISH:
            record["language"] = self.language
        if self.vectors is not None:
            record["vectors"] = self.vectors
        with replacing(folder / RECORD) as part, part.open("w", encoding="utf-8") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())

    @property
    def _format(self) -> int:
        if self.language != ENGLISH:
            return _WITH_LANGUAGE
        return _PLAIN if self.vectors is None else _WITH_VECTORS


def check_files(folder: Path) -> None:
    """Are the files of an index as tantivy wrote them? A search looks at no checksum; here a second takes 1.2 GB.

    Raises:
        EngineError: one is damaged; the message names it.
    """
    try:
        names = list(_file_names(json.loads((folder / "meta.json").read_text(encoding="utf-8"))))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EngineError(f"{folder / 'meta.json'} is damaged; {INDEX_AGAIN}") from None
    for name in names:
        # Another process may have merged it away meanwhile; what is missing tantivy itself tells.
        with suppress(FileNotFoundError):
            if not _is_whole(folder / name):
                raise EngineError(f"{folder / name} is damaged: its checksum is another; {INDEX_AGAIN}")


def _file_names(meta: Any) -> Iterator[str]:
    for segment in meta["segments"]:
        name, deleted = segment["segment_id"].replace("-", ""), segment["deletes"]
        endings = _SEGMENT_FILES if deleted is None else (*_SEGMENT_FILES, f"{deleted['opstamp']}.del")
        yield from (f"{name}.{ending}" for ending in endings)


def _is_whole(path: Path) -> bool:
    size = path.stat().st_size
    if size < _FOOTER_END:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        length, number = (int.from_bytes(data[at : at + 4], "little") for at in (size - 8, size - 4))
        start = size - _FOOTER_END - length
        if number != _FOOTER_NUMBER or start < 0:
            return False
        try:
            told = json.loads(data[start : size - _FOOTER_END])["crc"]
        except (ValueError, KeyError, TypeError):
            return False
        with memoryview(data) as whole, whole[:start] as content:
            return bool(zlib.crc32(content) == told)
