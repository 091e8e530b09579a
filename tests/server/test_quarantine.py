"""Which classes are left alone after they have ended workers."""

from __future__ import annotations

from zeolith.server.quarantine import MOST, MOST_OF_CLASS, PERIOD, Quarantine


def test_a_class_that_ends_workers_again_and_again() -> None:
    found = Quarantine()
    for number in range(MOST_OF_CLASS):
        assert found.remaining("a.Bad", number) == 0
        found.add("a.Bad", number)
    assert found.remaining("a.Bad", 10) == PERIOD - 10
    assert found.remaining("a.Good", 10) == 0
    # It is tried again when the first end is long ago, and then one is enough.
    assert found.remaining("a.Bad", PERIOD) == 0
    found.add("a.Bad", PERIOD)
    assert found.remaining("a.Bad", PERIOD) == 1


def test_ends_that_are_far_apart() -> None:
    found = Quarantine()
    for number in range(20):
        found.add("a.Bad", number * PERIOD)
        assert found.remaining("a.Bad", number * PERIOD) == 0


def test_new_classes_all_the_time() -> None:
    for names in ([f"a.Bad{number}" for number in range(MOST)], [""] * MOST):
        found = Quarantine()
        for number, name in enumerate(names):
            assert found.remaining("a.Good", number) == 0
            found.add(name, number)
        assert found.remaining("a.Good", MOST) == PERIOD - MOST
        assert found.remaining("", MOST) == PERIOD - MOST
        assert found.remaining("a.Good", PERIOD) == 0


def test_r8_it_remembers_so_many_classes() -> None:
    found = Quarantine()
    for number in range(10_000):
        found.add(f"a.Bad{number}", number * PERIOD)
    assert len(found._classes) == 100
