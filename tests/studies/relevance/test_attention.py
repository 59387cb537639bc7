"""Attention weighed by what it moves: sums against the whole sequence's, by the real small LLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from connector.backbone.prompt.template import NOT_APPLICABLE, PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.checkpoints.checkpoint import Checkpoint
from connector.sections import Settings
from connector.studies.relevance.attention import Attending, Read, main, study
from connector.studies.relevance.states import study_settings
from tests.evaluation.folders import write_collection
from tests.studies.relevance.worlds import cache_with_models
from tests.training.test_train_signals import windows

QUERY, DOCUMENT = "what makes dough rise", "Yeast turns sugar into carbon dioxide, which the dough holds."


def test_a_read_is_what_the_whole_sequence_says(smollm2: Checkpoint, settings: Settings) -> None:
    own = study_settings(128, ["backbone.dtype=float32", f"cache.path={settings.cache.path}"])
    plain, moved = Attending(own).read(QUERY, DOCUMENT)
    model: Any = AutoModelForCausalLM.from_pretrained(
        smollm2.path, attn_implementation="eager", dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    model.eval().requires_grad_(False)
    tokenizer = Tokenizer.from_folder(smollm2.path)
    template = PromptTemplate.from_folder(smollm2.path, tokenizer)

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode_user([text])[0].ids)

    def behind(query: str) -> tuple[np.ndarray, np.ndarray]:
        values: list[torch.Tensor] = []
        hooks = [
            layer.self_attn.v_proj.register_forward_hook(lambda _, __, out: values.append(out))
            for layer in model.model.layers
        ]
        text = [*template.prefix, *ids(DOCUMENT)]
        before = [*text, *template.before_query]
        found = model(torch.tensor([[*before, *ids(query)]]), output_attentions=True)
        for hook in hooks:
            hook.remove()
        mass, weighed = [], []
        for layer, attention, value in zip(model.model.layers, found.attentions, values, strict=True):
            for head in range(9):
                rows = attention[0, head, len(before) :, len(template.prefix) : len(text)].mean(dim=0)
                # Three heads of the queries share one of the values.
                part = value[0, len(template.prefix) : len(text), head // 3 * 64 : head // 3 * 64 + 64]
                out = part @ layer.self_attn.o_proj.weight[:, head * 64 : head * 64 + 64].T
                mass.append(float(rows.sum()))
                weighed.append(float((rows * out.norm(dim=1)).sum()))
        return np.array(mass), np.array(weighed)

    (asked, asked_moved), (empty, empty_moved) = behind(QUERY), behind(NOT_APPLICABLE)
    assert plain.shape == moved.shape == (270,)
    assert np.abs(plain - (asked - empty)).max() < 1e-4
    assert np.abs(moved - (asked_moved - empty_moved)).max() < 1e-4 * np.abs(moved).max()


def test_the_better_of_two_ways_to_read_heads_is_told() -> None:
    tables = [window.table for window in windows(96, noise=4.0)]
    random = np.random.default_rng(5)
    reads: list[list[Read]] = []
    for table in tables:
        grades = [table.qrels[own] for own in table.ids]
        noise = random.standard_normal((len(grades), 4)).astype(np.float32)
        reads.append([(own, own + np.float32([grade, 0, 0, 0])) for own, grade in zip(noise, grades, strict=True)])
    rows = study(tables, reads, lambda text: None)
    row = rows["attention times the norm of what it moves, a weight a head"]
    assert row["difference"] > 0.05 and row["p_value"] < 0.05
    assert rows["attention times the norm of what it moves, a weight a head, beside the probe"]["fused"] > 0


@pytest.mark.slow
def test_the_command_writes_all_rows(smollm2: Checkpoint, settings: Settings, tmp_path: Path) -> None:
    folders = [str(write_collection(tmp_path / f"world{number}")) for number in range(4)]
    out = tmp_path / "attention.json"
    cache = cache_with_models(tmp_path / "cache", settings)
    arguments = [*folders, "--tokens", "12", "--set", f"cache.path={cache}", "--out", str(out)]
    CliRunner().invoke(main, arguments, catch_exceptions=False)
    report = json.loads(out.read_text())
    assert report["queries"] == 4 and len(report["rows"]) == 8
    assert all(0 <= row["fused"] <= 1 for row in report["rows"].values())
