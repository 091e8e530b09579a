"""The warning about a server that anybody on the network can use."""

from __future__ import annotations

import dataclasses
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.support.certificates import Certificates

from zeolith.cli.serve import warn_of_strangers
from zeolith.config.server import parse_server_config

TLS = "<ssl>\ncertificate {own}\n{rest}\n</ssl>"
REQUIRED = "authenticate {ca}"
OPTIONAL = f"{REQUIRED}\nclient-certificates optional"


@pytest.mark.parametrize(
    ("section", "has_users", "said"),
    [
        ("", False, "without TLS and without log-in: who reaches"),
        ("", True, "without TLS: who sits between"),
        (TLS.replace("{rest}", "client-certificates none"), False, "without a client certificate"),
        (TLS.replace("{rest}", OPTIONAL), False, "Set client-certificates required"),
        (TLS.replace("{rest}", OPTIONAL), True, None),
        (TLS.replace("{rest}", REQUIRED), False, None),
    ],
)
def test_who_is_warned(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    section: str,
    has_users: bool,
    said: str | None,
) -> None:
    caplog.set_level(logging.INFO)
    ours = Certificates(tmp_path)
    section = section.format(own=ours.issue("server"), ca=ours.root)
    config = parse_server_config(
        f"<zeo>\naddress *:0\n{section}\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"
    )
    users: Any = object() if has_users else None
    config = dataclasses.replace(config, user_file=users)
    with socket.create_server(("127.0.0.1", 0)) as near:
        warn_of_strangers(config, [near])
        assert caplog.records == []
    with socket.create_server(("0.0.0.0", 0)) as wide:
        warn_of_strangers(config, [wide])
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == (said is not None)
    assert all(said in text for text in texts if said is not None)
