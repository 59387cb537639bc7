"""What is remembered of an index that the disk follows, and which passages leave it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from connector.backbone.caching.followed_index import FollowedIndex, KnownDocument, Recorded, forget_followed
from connector.backbone.caching.sqlite_store import PassageStore
from connector.errors import BackboneError
from tests.backbone.caching.test_sqlite_store import MB, data, key

LIMIT = 10 * MB
Opener = Callable[..., FollowedIndex]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "passages.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[PassageStore]:
    with closing(PassageStore(path, LIMIT)) as opened:
        yield opened


@pytest.fixture
def following(path: Path) -> Iterator[Opener]:
    opened: list[FollowedIndex] = []

    def follow(place: str = "articles", encoding: str = "model") -> FollowedIndex:
        opened.append(FollowedIndex(path, LIMIT, place, encoding))
        return opened[-1]

    yield follow
    for index in opened:
        index.close()


def document(name: str, version: str, *passages: int) -> KnownDocument:
    return KnownDocument(name, version, [key(number) for number in passages])


def fill(store: PassageStore, *numbers: int) -> None:
    for number in numbers:
        store.put(key(number), data(number, 10_000), 3)


def held(store: PassageStore) -> set[int]:
    return {number for number in range(1, 20) if store.has(key(number))}


def test_pending_is_what_is_new_written_again_or_not_on_disk(following: Opener, store: PassageStore) -> None:
    index = following()
    index.see([("a", "1"), ("b", "1"), ("c", "1")])
    assert index.pending() == ["a", "b", "c"]
    assert index.record([document("a", "1", 1, 2), document("b", "1"), document("c", "0", 3)]) == Recorded(3, 0, 0)
    # Recorded, and the process ended before they were encoded.
    assert index.pending() == ["a", "c"]
    fill(store, 1, 2, 3)
    assert index.pending() == ["c"] and index.documents() == 3 and index.passages() == 3
    store.drop(key(2))
    assert index.pending() == ["a", "c"] and index.passages() == 2
    index.look_again()
    assert index.pending() == [] and index.documents() == 3 and index.passages() == 0


def test_a_changed_document_loses_what_it_no_longer_has(following: Opener, store: PassageStore) -> None:
    index = following()
    fill(store, 1, 2, 3, 9)
    index.record([document("a", "1", 1, 2), document("b", "1", 2, 3)])
    # 2 is the other one's too, 9 is nobody's.
    assert index.record([document("a", "2", 4)]) == Recorded(0, 1, 1)
    assert held(store) == {2, 3, 9}
    # Written again with the same text.
    assert index.record([document("b", "2", 3, 2, 2)]) == Recorded()
    assert index.record([document("b", "3", 3)]) == Recorded(0, 1, 1)
    assert held(store) == {3, 9}


def test_what_another_index_or_model_has_stays(following: Opener, store: PassageStore) -> None:
    fill(store, 1, 2)
    following().record([document("a", "1", 1)])
    following("others").record([document("z", "1", 1)])
    following(encoding="another model").record([document("a", "1", 2)])
    assert following().record([document("a", "2", 5)]).dropped == 0
    assert held(store) == {1, 2}
    assert following("others").record([document("z", "2")]).dropped == 1
    assert held(store) == {2}


def test_a_deleted_document_leaves_with_all_that_was_made_of_it(following: Opener, store: PassageStore) -> None:
    index, older, other = following(), following(encoding="another model"), following("others")
    fill(store, *range(1, 7))
    index.record([document("a", "1", 1), document("b", "1", 2, 3)])
    older.record([document("b", "1", 4)])
    other.record([document("b", "1", 3), document("c", "1", 5)])
    index.see([("a", "1")])
    # 3 is in the other index too.
    assert index.forget_unseen() == (1, 2)
    assert held(store) == {1, 3, 5, 6}
    assert (index.documents(), older.documents(), other.documents()) == (1, 0, 2)
    assert index.forget_unseen() == (0, 0)


def test_many_leave_in_several_transactions(following: Opener, store: PassageStore) -> None:
    index = following()
    index.record(document(str(number), "1", number) for number in range(1, 451))
    fill(store, 1, 19)
    assert index.forget_unseen() == (450, 2)
    assert index.documents() == 0 and store.entries() == 0


def test_it_is_remembered_and_can_be_forgotten(following: Opener, store: PassageStore, path: Path) -> None:
    fill(store, 1)
    first = following()
    first.record([document("a", "1", 1)])
    first.set_mark("written", 7)
    first.close()
    again = following()
    again.see([("a", "1")])
    assert again.pending() == [] and again.mark("written") == 7
    assert again.mark("other") is None and following("others").mark("written") is None
    forget_followed(path)
    assert again.documents() == 0 and again.pending() == ["a"] and held(store) == {1}


def test_a_failed_record_changes_nothing(following: Opener, store: PassageStore) -> None:
    index = following()
    fill(store, 1)
    index.record([document("a", "1", 1)])

    def failing() -> Iterator[KnownDocument]:
        yield document("a", "2", 2)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        index.record(failing())
    index.see([("a", "1")])
    assert index.pending() == [] and held(store) == {1}


def test_a_file_that_is_no_store_is_told(path: Path) -> None:
    path.write_bytes(b"nonsense" * 10_000)
    with pytest.raises(BackboneError, match="prune --all"):
        FollowedIndex(path, LIMIT, "articles", "model")
