"""R8: connections leave files for what a commit needs."""

from __future__ import annotations

import resource

import pytest

from zeolith.server.openfiles import RESERVE, make_room, most_connections

INFINITY = resource.RLIM_INFINITY


class System:
    """Stands for the system's limits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> None:
        self.limits = soft, hard
        monkeypatch.setattr(resource, "getrlimit", lambda which: self.limits)
        monkeypatch.setattr(resource, "setrlimit", self.set)

    def set(self, which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        self.limits = limits


@pytest.mark.parametrize(
    ("soft", "wanted", "found"),
    [
        (INFINITY, 5000, 5000),
        (5000 + RESERVE, 5000, 5000),
        (5000 + RESERVE - 1, 5000, 4999),
        (1024, 4096, 1024 - RESERVE),
        (64, 4096, 32),
        (64, 10, 10),
    ],
)
def test_how_many_connections_there_may_be(
    monkeypatch: pytest.MonkeyPatch, soft: int, wanted: int, found: int
) -> None:
    System(monkeypatch, soft, INFINITY)
    assert most_connections(wanted) == found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, INFINITY), (1000 + RESERVE, INFINITY)),
        ((1024, 5000), (1000 + RESERVE, 5000)),
        ((2000, 5000), (2000, 5000)),
        ((INFINITY, INFINITY), (INFINITY, INFINITY)),
    ],
)
def test_a_server_makes_room(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    system = System(monkeypatch, *before)
    make_room(1000)
    assert system.limits == after
    assert not caplog.records


def test_where_there_is_none_it_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    system = System(monkeypatch, 500, 1000)
    make_room(1000)
    assert system.limits == (1000, 1000)
    assert f"need {1000 + RESERVE} open files, but this process may open 1000" in caplog.text
