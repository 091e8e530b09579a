"""What counts as one address."""

from __future__ import annotations

import pytest

from zeolith.server.origins import UNIX, origin


@pytest.mark.parametrize(
    ("peername", "source"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2:ffff::", 5, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:3::1", 5, 0, 0), "2001:db8:1:3::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        ("", UNIX),
        (b"", UNIX),
        (None, UNIX),
    ],
)
def test_what_counts_as_one_address(peername: object, source: str) -> None:
    assert origin(peername) == source
