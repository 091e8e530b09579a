"""What buildout is asked to install for a part, and from where."""

from __future__ import annotations

from typing import Any

import pytest
from tests.recipe.site import FakeOptions
from zc.buildout import easy_install

from zeolith.recipe.workingset import find_working_set

MAIN = {
    "eggs-directory": "/site/eggs",
    "develop-eggs-directory": "/site/develop-eggs",
    "find-links": "/links",
    "index": "https://index.example",
    "newest": "false",
    "allow-hosts": "a.example\nb.example",
    "allow-unknown-extras": "false",
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What easy_install was called with; it finds what it is asked for."""
    found: list[Any] = []

    def install(requirements: list[str], destination: str, **options: Any) -> list[str]:
        found.append((requirements, destination, options))
        return requirements

    def working_set(requirements: list[str], path: list[str]) -> list[str]:
        found.append((requirements, path))
        return requirements

    def sort(found: list[str], eggs: str, develop: str) -> list[str]:
        return [*found, eggs, develop]

    monkeypatch.setattr(easy_install, "install", install)
    monkeypatch.setattr(easy_install, "working_set", working_set)
    monkeypatch.setattr(easy_install, "sort_working_set", sort)
    return found


def test_what_buildout_says_holds(asked: list[Any]) -> None:
    found = find_working_set({"buildout": MAIN}, FakeOptions(), ["a", "zeolith"])
    # The buildout's own distributions come first.
    assert found == ["a", "zeolith", "/site/eggs", "/site/develop-eggs"]
    ((requirements, destination, options),) = asked
    assert (requirements, destination) == (["a", "zeolith"], "/site/eggs")
    assert options == {
        "links": ["/links"],
        "index": "https://index.example",
        "path": ["/site/develop-eggs"],
        "newest": False,
        "allow_hosts": ("a.example", "b.example"),
        "allow_unknown_extras": False,
    }


def test_what_the_part_says_wins(asked: list[Any]) -> None:
    part = FakeOptions({"find-links": "/own /other", "index": "https://own.example"})
    main = {**MAIN, "newest": "true", "allow-unknown-extras": "true"}
    find_working_set({"buildout": main}, part, ["zeolith"])
    ((_, _, options),) = asked
    assert options["links"] == ["/own", "/other"]
    assert options["index"] == "https://own.example"
    assert options["newest"] is options["allow_unknown_extras"] is True


def test_offline_only_what_is_there_is_looked_at(asked: list[Any]) -> None:
    find_working_set({"buildout": {**MAIN, "offline": "true"}}, FakeOptions(), ["zeolith"])
    assert asked == [(["zeolith"], ["/site/develop-eggs", "/site/eggs"])]
