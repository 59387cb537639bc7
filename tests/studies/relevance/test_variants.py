"""Variants of the prompt: what is read for each, by the real small LLM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.checkpoints.checkpoint import Checkpoint
from connector.sections import Settings
from connector.studies.relevance.variants import VARIANTS, main, pooled_likelihoods
from tests.evaluation.folders import write_collection
from tests.studies.relevance.worlds import cache_with_models


def test_rare_tokens_count_more() -> None:
    told = np.array([[-1.0, -4.0], [-3.0, -2.5]])
    found = pooled_likelihoods(told, np.array([-2.0, -3.0]), np.array([0.0, 2.0]))
    assert found["likelihood"].tolist() == [-5.0, -5.5]
    assert found["likelihood, tokens weighted by rarity"].tolist() == [-8.0, -5.0]
    assert found["likelihood above an empty document's, where it is above"].tolist() == [1.0, 0.5]
    assert found["the same, weighted by rarity"].tolist() == [0.0, 1.0]


def test_only_what_a_variant_names_is_changed(smollm2: Checkpoint) -> None:
    tokenizer = Tokenizer.from_folder(smollm2.path)
    own = PromptTemplate.from_folder(smollm2.path, tokenizer)
    assert VARIANTS["in use"].template(own, tokenizer) == own == VARIANTS["passages"].template(own, tokenizer)
    asked = VARIANTS["asked as a question"].template(own, tokenizer)
    assert (asked.prefix, asked.before_query) == (own.prefix, own.other_before_query)
    shown = VARIANTS["a demonstration before"].template(own, tokenizer)
    assert shown.prefix[: len(own.prefix)] == own.prefix and shown.before_query == own.before_query
    # The plain wording of the module is the product's.
    spelled = tokenizer.encode_template(VARIANTS["in use"].before_query)
    assert spelled == own.before_query


@pytest.mark.slow
def test_the_command_compares_all_variants_and_reads_nothing_twice(
    smollm2: Checkpoint, settings: Settings, tmp_path: Path
) -> None:
    folders = [str(write_collection(tmp_path / f"world{number}")) for number in range(4)]
    out = tmp_path / "variants.json"
    cache = cache_with_models(tmp_path / "cache", settings)
    arguments = [*folders, "--tokens", "12", "--set", f"cache.path={cache}", "--out", str(out)]
    CliRunner().invoke(main, arguments, catch_exceptions=False)
    report = json.loads(out.read_text())
    rows = report["rows"]
    assert report["queries"] == 4
    assert {"first stage", "probe", "likelihood", "probe, asked for a query", "best passage"} <= set(rows)
    assert all(0 <= row["fused"] <= 1 for row in rows.values())
    before = sorted(cache.rglob("statistics/*/*.npz"))
    times = [path.stat().st_mtime_ns for path in before]
    CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert json.loads(out.read_text())["rows"] == rows
    assert [path.stat().st_mtime_ns for path in before] == times
