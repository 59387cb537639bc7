"""The layout ``solo`` with the real small LLM: what a document gets is its own, however it is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.reader import Reader
from connector.backbone.similarity import Similarity
from connector.backbone.torch_runtime.runtime import TorchRuntime
from connector.checkpoints.checkpoint import Checkpoint
from connector.embedding.embedder import Embedder
from connector.errors import BackboneError
from connector.heads.needs import Needs
from connector.heads.row_groups import QUERY_GROUPS
from tests.embedding.tiny_model import save_embedder

QUERY = "how long do cats sleep"
NEEDS = Needs(groups=(), layers=(4, 8), likelihood=True)


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def runtime(request: pytest.FixtureRequest, smollm2: Checkpoint) -> TorchRuntime:
    return TorchRuntime.load(smollm2.path, device="cpu", dtype=request.param)


def open_reader(smollm2: Checkpoint, runtime: TorchRuntime, megabytes: int = 400, **options: int) -> Reader:
    tokenizer = Tokenizer.from_folder(smollm2.path)
    template = PromptTemplate.from_folder(smollm2.path, tokenizer)
    cache = DocumentCache(megabytes * 1_000_000)
    return Reader(runtime, tokenizer, template, "solo", smollm2.digest(), cache, **options)


def texts(cats: list[str]) -> list[str]:
    """Twenty of very different lengths."""
    words = " ".join(cats).split()
    return [" ".join(words[at % 7 :][: 1 + at * at]) for at in range(20)]


def test_one_call_or_several_give_the_same_bits(smollm2: Checkpoint, runtime: TorchRuntime, cats: list[str]) -> None:
    reader, window = open_reader(smollm2, runtime), texts(cats)
    whole = reader.read(QUERY, window, NEEDS)
    states = {text: whole.states[:, whole.documents[at][0]] for at, text in enumerate(window)}
    told = {text: whole.log_probabilities[whole.documents[at][0]] for at, text in enumerate(window)}
    for size in (10, 5, 1):
        again = open_reader(smollm2, runtime)
        for start in range(0, len(window), size):
            part = window[start : start + size][::-1]
            reading = again.read(QUERY, part, NEEDS)
            for at, text in enumerate(part):
                np.testing.assert_array_equal(reading.states[:, reading.documents[at][0]], states[text])
                np.testing.assert_array_equal(reading.log_probabilities[reading.documents[at][0]], told[text])


def test_the_answer_makes_the_query_likelier(smollm2: Checkpoint, runtime: TorchRuntime) -> None:
    answers = ["Cats sleep for about fifteen hours a day.", "The dollar fell against the yen on Tuesday."]
    reading = open_reader(smollm2, runtime).read(QUERY, answers, NEEDS)
    likelihood = reading.log_probabilities.sum(axis=1)[[places[0] for places in reading.documents]]
    assert likelihood[0] > likelihood[1] + 2


def test_documents_are_kept_for_the_depth_that_is_asked_for(smollm2: Checkpoint, runtime: TorchRuntime) -> None:
    reader = open_reader(smollm2, runtime)
    shallow = Needs(groups=(), layers=(4,))
    assert reader.read(QUERY, ["a cat", "a dog"], shallow).encoded == 2
    assert reader.read("another query", ["a dog", "a cat"], shallow).cached == 2
    assert reader.read(QUERY, ["a cat"], NEEDS).encoded == 1
    assert reader.precompute(["a bird", "a cat"], shallow) == (1, 1)
    assert reader.read(QUERY, ["a bird"], shallow).cached == 1


def test_the_other_wording_is_another_reading(smollm2: Checkpoint, runtime: TorchRuntime) -> None:
    reader = open_reader(smollm2, runtime)
    one = reader.read(QUERY, ["a cat"], NEEDS)
    other = reader.read(QUERY, ["a cat"], NEEDS, other_wording=True)
    assert other.encoded == 1 and not np.array_equal(one.states, other.states)


def test_other_layouts_have_no_states(smollm2: Checkpoint, runtime: TorchRuntime) -> None:
    tokenizer = Tokenizer.from_folder(smollm2.path)
    template = PromptTemplate.from_folder(smollm2.path, tokenizer)
    late = Reader(runtime, tokenizer, template, "late", smollm2.digest(), DocumentCache(0))
    with pytest.raises(BackboneError, match="backbone.layout = late gives no hidden states"):
        late.read(QUERY, ["a cat"], NEEDS)


def test_rows_of_heads_are_the_passages_own(smollm2: Checkpoint, runtime: TorchRuntime, cats: list[str]) -> None:
    """What is encoded behind a passage is no part of it, whatever stands beside it."""
    needs = Needs(((2, 4), (8, 0)), QUERY_GROUPS, (8,))
    reader, window = open_reader(smollm2, runtime), texts(cats)
    whole = reader.read(QUERY, window, needs)
    assert whole.rows.shape == (2, 2, whole.lengths.sum())
    starts = np.cumsum([0, *whole.lengths])
    for at, text in enumerate(window):
        place = whole.documents[at][0]
        alone = reader.read(QUERY, [text], needs)
        np.testing.assert_array_equal(alone.rows, whole.rows[:, :, starts[place] : starts[place + 1]])


@pytest.mark.parametrize(
    ("needs", "says"),
    [
        (Needs(((30, 0),), ("query",)), r"head \(30, 0\) is wanted of an LLM with 30 layers of 9 heads"),
        (Needs(((3, 9),), ("query",)), r"head \(3, 9\) is wanted"),
        (Needs(groups=(), layers=(31,)), "layer 31 is wanted"),
        (Needs(((3, 0),), ("tail",)), "the query's own rows only"),
    ],
)
def test_what_is_not_there_is_an_error(smollm2: Checkpoint, runtime: TorchRuntime, needs: Needs, says: str) -> None:
    with pytest.raises(BackboneError, match=says):
        open_reader(smollm2, runtime).read(QUERY, ["a cat"], needs)


def test_an_instruction_is_read_before_the_query_and_only_the_query_is_told(
    smollm2: Checkpoint, runtime: TorchRuntime, cats: list[str]
) -> None:
    reader = open_reader(smollm2, runtime)
    plain = reader.read(QUERY, cats, NEEDS)
    none = reader.read(QUERY, cats, NEEDS, instruction=" \u200b")
    np.testing.assert_array_equal(none.states, plain.states)
    told = reader.read(QUERY, cats, NEEDS, instruction="Find what cats do.")
    assert told.states.shape == plain.states.shape
    assert told.log_probabilities.shape == plain.log_probabilities.shape
    assert (told.states != plain.states).any()
    assert not told.query_truncated and not told.instruction_truncated and told.encoded == 0
    # What stands before a query is no token of it: the text before it makes its beginning likelier or not.
    joined = reader.read(f"Find what cats do.\n{QUERY}", cats, NEEDS)
    asked = plain.log_probabilities.shape[1]
    np.testing.assert_allclose(told.log_probabilities, joined.log_probabilities[:, -asked:], atol=1e-5)
    long = reader.read(QUERY, cats, NEEDS, instruction="cat " * 300)
    assert long.instruction_truncated and not long.query_truncated
    # An instruction leaves less room for the query.
    both = reader.read("cat " * 400, cats, NEEDS, instruction="cat " * 300)
    assert both.instruction_truncated and both.query_truncated
    assert not reader.read("cat " * 400, cats, NEEDS).query_truncated


def test_an_embedding_model_beside_it(
    smollm2: Checkpoint, runtime: TorchRuntime, cats: list[str], tmp_path: Path
) -> None:
    similarity = Similarity(Embedder.load(str(save_embedder(tmp_path / "tiny"))))
    needs = NEEDS | Needs(similarity=True)
    tokenizer = Tokenizer.from_folder(smollm2.path)
    template = PromptTemplate.from_folder(smollm2.path, tokenizer)
    cache = DocumentCache(400_000_000)
    reader = Reader(
        runtime, tokenizer, template, "solo", smollm2.digest(), cache, max_document_tokens=32, similarity=similarity
    )
    long = " ".join(["bread and flour to bake"] * 8 + ["cats sleep for hours a day"] * 8)
    window = [*cats[:3], long, "", cats[0]]
    whole = reader.read("how many hours do cats sleep", window, needs)
    assert len(whole.similarities) == len(whole.lengths) and "embed" in whole.timings_ms
    near = [whole.similarities[list(places)] for places in whole.documents]
    assert [len(own) for own in near][4:] == [0, 1] and near[0] == near[5]
    # Its end is nearer than its beginning: passages are embedded, not documents.
    assert len(near[3]) > 2 and near[3][-1] > near[3][0] + 0.1
    assert near[1][0] == similarity.cosines("how many hours do cats sleep", [cats[1]])[0]
    again = reader.read("how many hours do cats sleep", [long], needs)
    assert again.similarities[list(again.documents[0])].tobytes() == near[3].tobytes()
    assert not len(reader.read("how many hours do cats sleep", window, NEEDS).similarities)
    with pytest.raises(BackboneError, match="router.embedder"):
        open_reader(smollm2, runtime).read(QUERY, cats, needs)


def test_of_a_document_so_many_tokens_are_read_as_are_asked_for(
    smollm2: Checkpoint, runtime: TorchRuntime, cats: list[str]
) -> None:
    reader = open_reader(smollm2, runtime)
    long = " ".join(cats)
    whole, cut = reader.read(QUERY, [long, "Cats."], NEEDS), reader.read(QUERY, [long, "Cats."], NEEDS, most_tokens=5)
    assert whole.truncated == (False, False) and cut.truncated == (True, False)
    assert sum(passage.tokens for passage in cut.texts[0]) == 5
    assert reader.read(QUERY, [long], NEEDS, most_tokens=10_000).truncated == (False,)
