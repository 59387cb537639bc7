"""The prompt, cut into segments at the places where user text goes.

A prompt is assembled from the token ids of its segments, so that spans are exact by construction and nothing
that a document says can move them. The wording follows ICR (arXiv 2410.02642).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from connector.backbone.prompt.tokenizer import Tokenizer
from connector.errors import BackboneError

__all__ = ["NOT_APPLICABLE", "PromptTemplate"]

_BEFORE_DOCUMENTS = "Here are some paragraphs:\n\n"
_BEFORE_QUERY = (
    "\n\nPlease find information that are relevant to the following query in the paragraphs above.\n\nQuery: "
)
# A second view of the same query and documents: scores that change with it are noise.
_OTHER_BEFORE_QUERY = "\n\nWhich of the texts above answers this question or statement best?\n\nQuestion: "
NOT_APPLICABLE = "N/A"
"""The content-free query that calibrates attention (ICR)."""

# Characters of Unicode's private use area: no template holds them.
_DOCUMENTS_HERE, _QUERY_HERE = "\ue0f1", "\ue0f2"


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Token ids of the prompt's fixed parts.

    Attributes:
        prefix: chat opening and instruction, up to the first document.
        before_query: from the last document to the query.
        after_query: chat suffix, up to where the LLM would answer.
        separator: between documents (layout ``joint``).
        kind: ``chat`` or ``plain``.
        other_before_query: ``before_query`` in another wording; only pseudo labels of routers look at it.
    """

    prefix: tuple[int, ...]
    before_query: tuple[int, ...]
    after_query: tuple[int, ...]
    separator: tuple[int, ...]
    kind: str
    other_before_query: tuple[int, ...] = ()

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Tokenizer) -> PromptTemplate:
        """The prompt in the checkpoint's chat template, or plain where it has none.

        Raises:
            BackboneError: the chat template fails, or drops the user's message.
        """
        template, special = _chat_template(folder)
        opening: tuple[int, ...] = () if template is not None else tokenizer.opening_ids()

        def parts(before_query: str) -> tuple[str, str, str]:
            content = _BEFORE_DOCUMENTS + _DOCUMENTS_HERE + before_query + _QUERY_HERE
            rendered = content if template is None else _render(template, special, content, folder)
            prefix, _, rest = rendered.partition(_DOCUMENTS_HERE)
            between, marker, after = rest.partition(_QUERY_HERE)
            if not marker:
                raise BackboneError(f"the chat template in {folder} does not pass the user's message on")
            return prefix, between, after

        encode = tokenizer.encode_template
        prefix, between, after = parts(_BEFORE_QUERY)
        return cls(
            opening + encode(prefix),
            encode(between),
            encode(after),
            encode("\n\n"),
            "plain" if template is None else "chat",
            encode(parts(_OTHER_BEFORE_QUERY)[1]),
        )


def _chat_template(folder: Path) -> tuple[str | None, Mapping[str, str]]:
    config: dict[str, Any] = {}
    path = folder / "tokenizer_config.json"
    if path.is_file():
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BackboneError(f"{path} is not JSON: {error}") from None
    special = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = config.get(name)
        special[name] = str(token.get("content", "") if isinstance(token, dict) else token or "")
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if isinstance(template, list):
        # Several named templates: the one without tools is called default.
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template or None, special


def _render(template: str, special: Mapping[str, str], content: str, folder: Path) -> str:
    # As transformers renders chat templates. strftime_now is left out on purpose: templates that print today's
    # date fall back to a fixed one, else every fingerprint and every cached document would expire at midnight.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        return environment.from_string(template).render(
            messages=[{"role": "user", "content": content}],
            add_generation_prompt=True,
            enable_thinking=False,
            **special,
        )
    except TemplateError as error:
        raise BackboneError(f"the chat template in {folder} cannot be rendered: {error}") from None
