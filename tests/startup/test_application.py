"""What Zope's part of a first start looks at; ``tests/zope`` has it with real processes."""

from __future__ import annotations

from typing import Any

import pytest

from zeolith.startup.application import is_begun, is_done

COMPLETE = {"acl_users": "User Folder", "index_html": "Page Template", "virtual_hosting": "VHM"}


class Application:
    """As much of Zope's root application as is looked at."""

    __ac_roles__: tuple[str, ...] = ("Manager", "Owner", "Anonymous", "Authenticated")

    def __init__(self, objects: dict[str, str], attributes: dict[str, Any] | None = None) -> None:
        self._objects = objects
        # A ghost: what it has is not there until it is activated.
        self._later = attributes or {}

    def _p_activate(self) -> None:
        vars(self).update(self._later)

    def objectMap(self) -> list[dict[str, str]]:  # noqa: N802 - Zope's name
        return [{"id": name, "meta_type": kind} for name, kind in self._objects.items()]


def test_an_empty_database() -> None:
    assert not is_begun({})
    assert not is_done({})


@pytest.mark.parametrize(
    ("left_out", "added", "expected"),
    [
        (None, {}, True),
        ("acl_users", {}, False),
        ("index_html", {}, False),
        ("virtual_hosting", {}, False),
        ("virtual_hosting", {"VHM": "Virtual Host Monster"}, True),
    ],
)
def test_what_zope_would_add(left_out: str | None, added: dict[str, str], expected: bool) -> None:
    objects = {name: kind for name, kind in COMPLETE.items() if name != left_out}
    root = {"Application": Application({**objects, **added})}
    assert is_begun(root)
    assert is_done(root) is expected


@pytest.mark.parametrize(
    "attributes",
    [
        {"Control_Panel": object()},
        {"_standard_objects_have_been_added": 1},
        {"_initializer_registry": {}},
        {"__ac_roles__": ("Manager", "Owner")},
        {"__ac_roles__": ("Manager", "Authenticated")},
    ],
)
def test_what_zope_would_change(attributes: dict[str, Any]) -> None:
    assert not is_done({"Application": Application(COMPLETE, attributes)})
