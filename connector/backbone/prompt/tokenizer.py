"""Token ids for two kinds of text that must never mix: our template, and whatever users wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as _Tokenizer

from connector.backbone.prompt.tail import TokenIds
from connector.documents import clean_text
from connector.errors import BackboneError

__all__ = ["EncodedText", "Tokenizer"]

# Control tokens that some tokenizers (GGUF conversions above all) forget to mark as special.
_CONTROL = re.compile(
    r"<\|.*\|>|<｜.*｜>|\[/?(INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|</?s>"
    r"|<(bos|eos|pad|unk|mask|start_of_turn|end_of_turn|start_of_image|end_of_image|unused\d+)>"
)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedText:
    """Token ids of a text, int32 [tokens], and for each its (start, end) characters in the text."""

    ids: TokenIds
    offsets: tuple[tuple[int, int], ...]


class Tokenizer:
    """A checkpoint's ``tokenizer.json``, used without transformers.

    User text never becomes a control token: ``<|im_end|>`` in a document is read as the characters it is.
    """

    def __init__(self, definition: str) -> None:
        self._template = _Tokenizer.from_str(definition)
        record = json.loads(definition)
        # Truncation and padding of a training set-up must not cut our segments.
        self._template.no_truncation()
        self._template.no_padding()
        control = []
        for token in record.get("added_tokens") or ():
            token["special"] = bool(token.get("special")) or _CONTROL.fullmatch(token["content"]) is not None
            if token["special"]:
                control.append(int(token["id"]))
        self.control_ids = frozenset(control)
        self._user = _Tokenizer.from_str(json.dumps(record))
        self._user.encode_special_tokens = True
        self._user.no_truncation()
        self._user.no_padding()

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Read ``tokenizer.json`` of a checkpoint folder.

        Raises:
            BackboneError: it is missing or not readable.
        """
        path = folder / "tokenizer.json"
        try:
            return cls(path.read_text(encoding="utf-8"))
        except OSError:
            raise BackboneError(
                f"{folder} has no tokenizer.json; save it with AutoTokenizer.save_pretrained"
            ) from None
        except Exception as error:
            # tokenizers raises bare Exception for a file that it does not understand.
            raise BackboneError(f"{path} cannot be read: {error}") from None

    def encode_template(self, text: str) -> tuple[int, ...]:
        """Ids of template text: control tokens count as such, nothing is put before or after."""
        return tuple(self._template.encode(text, add_special_tokens=False).ids)

    def encode_user(self, texts: Sequence[str]) -> list[EncodedText]:
        """Ids and character offsets of user texts: no control tokens, whatever the texts say."""
        cleaned = [clean_text(text) for text in texts]
        encodings = self._user.encode_batch(cleaned, add_special_tokens=False)
        out = []
        for encoding in encodings:
            if not self.control_ids.isdisjoint(encoding.ids):
                raise BackboneError("the tokenizer turned user text into control tokens; this backbone is unsafe")
            out.append(EncodedText(np.array(encoding.ids, dtype=np.int32), tuple(encoding.offsets)))
        return out

    def opening_ids(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text (a BOS token, or nothing)."""
        ids = self._template.encode("", add_special_tokens=True).ids
        # An EOS after the text would end the prompt before it has begun.
        return tuple(ids[:1])
