"""What became of a transaction, as it is said on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from zeolith.errors import IllegalMessage
from zeolith.protocol import msgpacks
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.outcome import (
    NOT_COMMITTED,
    State,
    Verdict,
    parse_verdict,
    serialize_verdict,
)

TID = bytes(range(8))


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict(State.COMMITTED, TID), {"state": "committed", "tid": TID}),
        (NOT_COMMITTED, {"state": "not committed"}),
        (Verdict(State.UNKNOWN, None, "too old"), {"state": "unknown", "reason": "too old"}),
    ],
)
def test_both_ways(verdict: Verdict, said: dict[str, Any]) -> None:
    assert serialize_verdict(verdict) == said
    received = msgpacks.loads(msgpacks.dumps(said), DEFAULT_LIMITS)
    assert parse_verdict(received) == verdict
    assert parse_verdict({**received, "later": 1}) == verdict


def test_a_reason_is_not_needed_and_not_endless() -> None:
    assert parse_verdict({"state": "unknown"}).reason == ""
    assert parse_verdict({"state": "unknown", "reason": 5}).reason == ""
    assert len(parse_verdict({"state": "unknown", "reason": "x" * 9_000}).reason) == 500


@pytest.mark.parametrize(
    "said",
    [
        None, 5, (), {}, {"state": None}, {"state": "later"}, {"state": ["committed"]},
        {"state": "committed"}, {"state": "committed", "tid": None},
        {"state": "committed", "tid": b"short"}, {"state": "committed", "tid": "01234567"},
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused(said: Any) -> None:
    with pytest.raises(IllegalMessage):
        parse_verdict(said)
