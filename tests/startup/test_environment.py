"""What two variables say, as the documentation of ZEO 2 has it."""

from __future__ import annotations

import pytest

from zeolith.startup.environment import refusal


@pytest.mark.parametrize(
    ("client", "force", "may"),
    [
        (None, None, True),
        ("", None, True),
        ("8700", None, False),
        ("8700", "1", True),
        (None, "1", True),
        ("8700", "", False),
        (None, "", False),  # set and empty: suppressed
    ],
)
def test_who_may_initialise(client: str | None, force: str | None, may: bool) -> None:
    given = {"ZEO_CLIENT": client, "FORCE_PRODUCT_LOAD": force, "HOME": "/root"}
    environ = {name: value for name, value in given.items() if value is not None}
    assert (refusal(environ) is None) is may


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"ZEO_CLIENT": "a"}, "because ZEO_CLIENT is set"),
        ({"FORCE_PRODUCT_LOAD": ""}, "because FORCE_PRODUCT_LOAD is set and empty"),
    ],
)
def test_it_says_why_and_how_to_go_on(environ: dict[str, str], name: str) -> None:
    text = refusal(environ)
    assert text is not None
    assert name in text
    assert text.endswith("start one process without ZEO_CLIENT, or with FORCE_PRODUCT_LOAD=1")
