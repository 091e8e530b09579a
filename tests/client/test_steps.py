"""What is expected after ids that were asked for in equal steps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zeolith.client.steps import ENOUGH, FEWEST, LONGEST, MISS, Steps

TID, OTHER = b"\0" * 7 + b"\1", b"\0" * 7 + b"\2"
MOST = 16


def oid(number: int) -> bytes:
    return number.to_bytes(8, "big")


def numbers(found: list[bytes] | None) -> list[int] | None:
    return None if found is None else [int.from_bytes(one, "big") for one in found]


def follow(steps: Steps, *asked: int, tid: bytes = TID) -> list[list[int] | None]:
    return [numbers(steps.follow(oid(number), tid)) for number in asked]


def test_the_third_in_equal_steps_makes_a_sequence() -> None:
    assert follow(Steps(MOST), 10, 12, 14) == [None, None, [16, 18, 20, 22]]


def test_more_are_expected_the_longer_it_goes_on_and_none_twice() -> None:
    steps = Steps(MOST)
    found = [number for more in follow(steps, *range(1, 100)) for number in more or ()]
    assert found == list(range(ENOUGH + 1, found[-1] + 1))
    assert found[-1] <= 99 + MOST


def test_no_more_than_the_most_are_ahead() -> None:
    steps, seen = Steps(MOST), 0
    for number in range(1, 200):
        (found,) = follow(steps, number)
        seen = max([seen, *(found or ())])
        assert seen - number <= MOST


def test_many_are_asked_for_at_a_time() -> None:
    """Each time costs a system call."""
    steps = Steps(MOST)
    times = [len(found) for found in follow(steps, *range(1, 200)) if found]
    assert len(times) <= 3 + 199 / (MOST // 2)
    assert min(times) >= FEWEST


def test_downwards_to_the_first_id_there_is() -> None:
    assert follow(Steps(MOST), 5, 4, 3) == [None, None, [2, 1, 0]]


def test_upwards_to_the_last() -> None:
    last = (1 << 64) - 1
    assert follow(Steps(MOST), last - 3, last - 2, last - 1) == [None, None, [last]]


def test_another_transaction_is_another_sequence() -> None:
    steps = Steps(MOST)
    follow(steps, 1, 2, 3)
    assert follow(steps, 4, tid=OTHER) == [None]
    assert follow(steps, 5, 6, tid=OTHER) == [None, [7, 8, 9, 10]]


def test_the_same_again_is_none() -> None:
    assert follow(Steps(MOST), 7, 7, 7, 7) == [None] * 4


def test_far_apart_is_none() -> None:
    far = LONGEST + 1
    assert follow(Steps(MOST), 0, far, 2 * far, 3 * far) == [None] * 4
    assert follow(Steps(MOST), 0, LONGEST, 2 * LONGEST)[2] is not None


def test_what_somebody_else_has_asked_for_is_passed_over() -> None:
    steps = Steps(MOST)
    assert follow(steps, 1, 2, 3) == [None, None, [4, 5, 6, 7]]
    assert follow(steps, 6) == [list(range(8, 15))]


def test_what_is_of_no_use_is_not_asked_for_again() -> None:
    steps = Steps(MOST)
    follow(steps, 1, 2, 3)
    steps.judge(False)
    assert follow(steps, 4, 5) == [[], [8, 9, 10, 11, 12, 13]]
    steps.judge(False)
    assert follow(steps, *range(6, 30)) == [None] * 24
    assert follow(steps, 1, 2, 3, tid=OTHER) == [None, None, [4, 5, 6, 7]]


def test_what_is_of_use_makes_up_for_it() -> None:
    steps = Steps(MOST)
    found: list[int] = []
    for number in range(1, 200):
        (more,) = follow(steps, number)
        found += more or ()
        if number in found:
            steps.judge(number % (MISS + 2) != 0)
    assert found == list(range(ENOUGH + 1, found[-1] + 1))
    assert found[-1] > 199


def test_what_was_passed_is_past() -> None:
    steps = Steps(MOST)
    follow(steps, 1, 2, 3)
    past = [steps.is_past(oid(number), TID) for number in (2, 3, 4, 5)]
    assert past == [True, True, False, False]
    assert steps.is_past(oid(5), OTHER)
    follow(steps, 100)
    assert steps.is_past(oid(101), TID)


@given(st.lists(st.integers(0, 40), max_size=60))
def test_whatever_is_asked_for(asked: list[int]) -> None:
    """What is expected goes on where the last three lead, and nothing is said twice in a row."""
    steps = Steps(MOST)
    for position, number in enumerate(asked):
        found = numbers(steps.follow(oid(number), TID))
        if not found:
            continue
        way = [one - number for one in found]
        last = number - asked[position - 1]
        assert len(way) <= MOST
        assert all(one * last > 0 for one in way)
        if len(way) > 1:
            unit = way[1] - way[0]
            assert last % unit == 0
            assert way == [way[0] + place * unit for place in range(len(way))]
