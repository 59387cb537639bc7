"""Prompt segments from chat templates and without one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.checkpoints.checkpoint import Checkpoint
from connector.errors import BackboneError


@pytest.fixture
def folder(smollm2: Checkpoint, tmp_path: Path) -> Path:
    """The tokenizer of the real model, without a chat template."""
    shutil.copy(smollm2.path / "tokenizer.json", tmp_path)
    return tmp_path


def template(folder: Path) -> PromptTemplate:
    return PromptTemplate.from_folder(folder, Tokenizer.from_folder(folder))


def test_segments_are_the_rendered_chat_template(smollm2: Checkpoint) -> None:
    from transformers import AutoTokenizer

    prompt = template(smollm2.path)
    reference = AutoTokenizer.from_pretrained(smollm2.path)
    document, query = "Cats sleep a lot.", "how long do cats sleep"
    content = (
        f"Here are some paragraphs:\n\n{document}\n\nPlease find information that are relevant to the following "
        f"query in the paragraphs above.\n\nQuery: {query}"
    )
    rendered = reference.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    encode = reference.backend_tokenizer.encode
    ids = [
        *prompt.prefix,
        *encode(document, add_special_tokens=False).ids,
        *prompt.before_query,
        *encode(query, add_special_tokens=False).ids,
        *prompt.after_query,
    ]
    assert reference.decode(ids) == rendered
    assert prompt.kind == "chat"


def test_without_a_chat_template_the_prompt_is_plain(folder: Path) -> None:
    assert template(folder).kind == "plain"


def test_a_template_in_the_tokenizer_settings_is_found(folder: Path) -> None:
    text = "{{ bos_token }}{% for m in messages %}USER {{ m['content'] }}{% endfor %} ANSWER"
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": text, "bos_token": {"content": "<|im_start|>"}})
    )
    prompt = template(folder)
    assert prompt.kind == "chat" and prompt.prefix[0] == 1 and len(prompt.after_query) > 0


def test_templates_that_print_the_date_give_the_same_prompt_every_day(folder: Path) -> None:
    text = (
        "{% if strftime_now is defined %}{{ strftime_now('%Y-%m-%d') }}{% else %}2024-07-26{% endif %}"
        "{{ messages[0]['content'] }}"
    )
    (folder / "chat_template.jinja").write_text(text)
    tokenizer = Tokenizer.from_folder(folder)
    prefix = PromptTemplate.from_folder(folder, tokenizer).prefix
    assert prefix[: len(tokenizer.encode_template("2024-07-26"))] == tokenizer.encode_template("2024-07-26")


@pytest.mark.slow
@pytest.mark.parametrize("text", ["{% for", "{{ raise_exception('no') }}", "{{ messages[0]['content'].nothing.at }}"])
def test_broken_templates_are_one_line(folder: Path, text: str) -> None:
    (folder / "chat_template.jinja").write_text(text)
    with pytest.raises(BackboneError, match="chat template"):
        template(folder)


def test_a_template_that_drops_the_message_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("hello")
    with pytest.raises(BackboneError, match="does not pass"):
        template(folder)
