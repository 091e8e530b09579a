"""What has changed since when: unchanged is only what is known to be."""

from __future__ import annotations

import random

import pytest

from zeolith.cache import journal as module
from zeolith.cache.journal import ChangeJournal
from zeolith.types import NO_TID


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


A, B, C = (bytes(7) + bytes([n]) for n in (1, 2, 3))


def test_what_it_was_told() -> None:
    journal = ChangeJournal(to_tid(5))
    journal.note(A, to_tid(6))
    journal.note(A, to_tid(8))
    journal.note(A, to_tid(7))
    journal.top = to_tid(9)
    assert not journal.is_unchanged(A, to_tid(7))
    assert journal.is_unchanged(A, to_tid(8))
    assert journal.is_unchanged(B, to_tid(5))
    assert not journal.is_unchanged(B, to_tid(4)), "before it begins nothing is known"


def test_it_begins_anew() -> None:
    journal = ChangeJournal(to_tid(5))
    journal.note(A, to_tid(6))
    journal.begin(to_tid(9))
    assert len(journal) == 0
    assert not journal.is_unchanged(A, to_tid(8))
    assert journal.is_unchanged(A, to_tid(9))


@pytest.mark.parametrize(
    ("since", "until", "unchanged"),
    [
        # Before what it knows: A changed before that, B once more, when is known.
        (2, 10, {A: range(10, 13), B: range(12, 13), C: range(2, 13)}),
        (2, 12, {A: range(10, 13), B: range(12, 13), C: range(2, 13)}),
        # Beyond: each of them may have changed at the very end.
        (2, 15, {A: range(15, 16), B: range(15, 16), C: range(2, 16)}),
        (11, 15, {A: range(15, 16), B: range(15, 16), C: range(10, 16)}),
        # Before and behind it something is unknown.
        (2, 9, {A: range(10, 13), B: range(12, 13), C: range(10, 13)}),
        (13, 15, {A: range(15, 16), B: range(15, 16), C: range(13, 16)}),
    ],
)
def test_what_it_learns_afterwards(since: int, until: int, unchanged: dict[bytes, range]) -> None:
    journal = ChangeJournal(to_tid(10))
    journal.note(B, to_tid(12))
    journal.top = to_tid(12)
    journal.learn(to_tid(since), to_tid(until), [A, B])
    for oid, known in unchanged.items():
        found = [n for n in range(1, known.stop) if journal.is_unchanged(oid, to_tid(n))]
        assert found == list(known), oid


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """R8."""
    monkeypatch.setattr(module, "MAX_CHANGES", 10)
    journal = ChangeJournal(NO_TID)
    for n in range(1, 100):
        journal.note(to_tid(n), to_tid(n))
        assert len(journal) <= 10
        assert not journal.is_unchanged(to_tid(n), to_tid(n - 1))
        assert journal.is_unchanged(to_tid(1_000), to_tid(n))
    assert journal.floor > NO_TID
    assert not journal.is_unchanged(B, NO_TID)


def test_one_transaction_of_more_than_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHANGES", 10)
    journal = ChangeJournal(to_tid(1))
    for n in range(30):
        journal.note(to_tid(n), to_tid(2))
        assert len(journal) <= 10
    assert not any(journal.is_unchanged(to_tid(n), to_tid(1)) for n in range(40))
    assert journal.is_unchanged(A, to_tid(2))


def test_it_never_takes_what_has_changed_for_unchanged() -> None:
    """Against a history, however its ranges come to be known."""
    chance = random.Random(3)
    for _ in range(300):
        history = [chance.sample(range(8), chance.randrange(1, 4)) for _ in range(20)]
        journal = ChangeJournal(to_tid(chance.randrange(20)))
        for _ in range(12):
            low, high = sorted(chance.sample(range(20), 2))
            action = chance.randrange(4)
            if action == 0:
                changed = {oid for tid in range(low + 1, high + 1) for oid in history[tid]}
                journal.learn(to_tid(low), to_tid(high), [to_tid(oid) for oid in changed])
            elif action == 1:
                journal.prune(to_tid(low))
            else:
                tid = int.from_bytes(journal.top, "big") + 1
                if tid < 20:
                    for oid in history[tid]:
                        journal.note(to_tid(oid), to_tid(tid))
                    journal.top = to_tid(tid)
            top = int.from_bytes(journal.top, "big")
            for oid in range(8):
                for since in range(20):
                    if journal.is_unchanged(to_tid(oid), to_tid(since)):
                        assert not any(oid in history[tid] for tid in range(since + 1, top + 1))
