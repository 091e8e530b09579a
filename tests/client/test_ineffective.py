"""What ZEO takes without using it: which keywords are left out, and what is said of each."""

from __future__ import annotations

from typing import Any

import pytest

from zeolith.client.ineffective import leave_out, leave_out_blobs


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        ({}, []),
        ({"debug": 1}, ["debug"]),
        ({"debug": 0}, []),
        ({"disconnect_poll": 1}, ["disconnect_poll"]),
        ({"disconnect_poll": None}, []),
        ({"ssl_server_hostname": "x"}, ["ssl_server_hostname"]),
        ({"ssl_server_hostname": "x", "ssl": object()}, []),
        ({"client": "x", "var": "/tmp"}, []),
        ({"cache": "x.zec", "client": "y", "var": "/tmp"}, ["client", "var"]),
        ({"cache": "x.zec", "cache_size": 1 << 20}, []),
        ({"cache": object(), "cache_size": 1 << 20}, ["cache_size"]),
        ({"cache": object(), "cache_size": 20 << 20}, []),
        ({"blob_cache_size": 1}, ["blob_cache_size"]),
        ({"blob_cache_size_check": 10}, []),
        ({"blob_cache_size_check": 11}, ["blob_cache_size_check"]),
        ({"shared_blob_dir": 1}, ["shared_blob_dir"]),
        ({"blob_dir": "b", "blob_cache_size_check": 11}, ["blob_cache_size_check"]),
        ({"blob_dir": "b", "blob_cache_size": 1, "blob_cache_size_check": 11}, []),
        ({"blob_dir": "b", "shared_blob_dir": 1}, []),
        (
            {"blob_dir": "b", "shared_blob_dir": 1, "blob_cache_size": 1},
            ["blob_cache_size"],
        ),
        (
            {"blob_dir": "b", "shared_blob_dir": 1, "blob_cache_size_check": 3},
            ["blob_cache_size_check"],
        ),
    ],
    ids=lambda value: "-".join(value) or "nothing",
)
def test_leave_out(given: dict[str, Any], left_out: list[str]) -> None:
    kept, reasons = leave_out({"addr": 1, **given})
    assert kept == {k: v for k, v in {"addr": 1, **given}.items() if k not in left_out}
    assert [reason.partition(" has no effect: ")[0] for reason in reasons] == left_out


def test_sections_are_strict_about_everything_but_blobs() -> None:
    given = {
        "debug": 1,
        "disconnect_poll": 1,
        "ssl_server_hostname": "x",
        "cache": "c",
        "client": 1,
    }
    assert leave_out_blobs(given) == (given, [])
    kept, reasons = leave_out_blobs({**given, "blob_cache_size": 1})
    assert kept == given
    assert reasons == ["blob_cache_size has no effect: there is no blob_dir"]
