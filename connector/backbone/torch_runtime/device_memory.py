"""A GPU's memory: encoded passages that stay there, and what is done when it does not suffice.

Encoded passages lie in pinned host memory, in the document cache. Those that were read last stay on the GPU as well,
up to a share of what was free when the model was loaded: that heeds other processes on the card, and slices of it.
Where memory runs out, less is done at once, then what stays there is let go; only then is an error raised.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TypeVar

import torch
from cachetools import LRUCache

from connector.backbone.runtime import DeviceStatistics
from connector.backbone.torch_runtime.encoded import TorchEncodedDocument
from connector.errors import BackboneError

__all__ = ["DeviceMemory", "card"]

# Of what is free: the rest is for passes, and for others.
_SHARE = 0.4
Item = TypeVar("Item")
Found = TypeVar("Found")


class DeviceMemory:
    """Encoded passages on a device, least recently used out first. Thread-safe.

    Args:
        device: where they are.
        limit: most bytes of them.
    """

    def __init__(self, device: torch.device, limit: int) -> None:
        self.device, self.limit = device, limit
        self._lock = Lock()
        self._shortages = 0
        self._kept: LRUCache[int, tuple[weakref.ref[TorchEncodedDocument], TorchEncodedDocument]] = LRUCache(
            limit, getsizeof=lambda kept: kept[1].nbytes
        )

    @classmethod
    def of(cls, device: torch.device) -> DeviceMemory | None:
        """That of a GPU; None: the device has no memory of its own."""
        if device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(device)
        return cls(device, int(free * _SHARE))

    @property
    def bytes(self) -> int:
        """Bytes of passages that are kept on the device now."""
        with self._lock:
            return int(self._kept.currsize)

    def statistics(self) -> DeviceStatistics:
        """Bytes now; see ``DeviceStatistics``."""
        name, free, total, process = "cpu", 0, 0, 0
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
            free, total = torch.cuda.mem_get_info(self.device)
            process = torch.cuda.memory_reserved(self.device)
        return DeviceStatistics(name, free, total, process, self.bytes, self.limit, 0, self._shortages)

    def hosted(self, documents: Sequence[TorchEncodedDocument]) -> list[TorchEncodedDocument]:
        """Passages that were encoded on the device, in host memory; what is on the device stays there too."""
        on_gpu = self.device.type == "cuda"
        hosts = [document.on(torch.device("cpu"), pinned=on_gpu) for document in documents]
        if on_gpu:
            # All copies are under way: one wait for all.
            torch.cuda.current_stream(self.device).synchronize()
        for host, document in zip(hosts, documents, strict=True):
            self._keep(host, document)
        return hosts

    def there(self, documents: Sequence[TorchEncodedDocument]) -> list[TorchEncodedDocument]:
        """Passages of the host with their states on the device; what is not there is copied."""
        found = []
        for document in documents:
            with self._lock:
                known, kept = self._kept.get(id(document), (None, None))
            # Another passage may have got the address of one that is gone.
            if kept is None or known is None or known() is not document:
                kept = document.on(self.device)
                self._keep(document, kept)
            found.append(kept)
        return found

    def clear(self) -> None:
        """Let go of all passages; they stay in host memory."""
        with self._lock:
            self._kept.clear()

    def in_parts(self, items: Sequence[Item], work: Callable[[Sequence[Item]], Found]) -> list[Found]:
        """What comes of all items at once, or of parts of them, in order, where memory does not suffice for all.

        Args:
            items: at least one.
            work: is given some of them; nothing may be left of what it began when it fails.

        Raises:
            BackboneError: memory does not suffice for one item, with nothing else kept there.
        """
        found: list[Found] = []
        waiting, shortages = [items], 0
        # The one item that failed last. What is read is kept there again: there would always be something to clear.
        failed: Sequence[Item] | None = None
        while waiting:
            part = waiting.pop()
            try:
                found.append(work(part))
                continue
            except torch.OutOfMemoryError as error:
                reason = str(error).partition("\n")[0]
            # Only here: until an error is dealt with, its frames hold what they had allocated.
            shortages += 1
            with self._lock:
                self._shortages += 1
            if shortages > 1 or len(part) == 1:
                self.clear()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(part) > 1:
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]
            elif failed is not part:
                waiting.append(part)
                failed = part
            else:
                raise BackboneError(
                    f"{self.device} has too little memory for one passage ({reason}); lower rerank.window or "
                    "backbone.max_document_tokens, take a smaller model, or set backbone.device to cpu"
                )
        return found

    def _keep(self, host: TorchEncodedDocument, kept: TorchEncodedDocument) -> None:
        with self._lock:
            if kept.nbytes <= self.limit:
                self._kept[id(host)] = weakref.ref(host), kept


def card() -> tuple[str, int, int] | None:
    """Name of the GPU that torch takes, and bytes of its memory: free now, and in all; None: there is no GPU."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return torch.cuda.get_device_name(), free, total
