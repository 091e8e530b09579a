"""Users, groups and modes as people write them."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from zeolith.config.accounts import Account, Owner, find_account, parse_mode, parse_owner
from zeolith.config.server import parse_server_config
from zeolith.errors import ConfigurationError

ME = pwd.getpwuid(os.getuid())
GROUP = grp.getgrgid(ME.pw_gid)


@pytest.mark.parametrize("text", [ME.pw_name, str(ME.pw_uid)])
def test_an_account_by_name_or_number(text: str) -> None:
    assert find_account(text, "-u") == Account(ME.pw_name, ME.pw_uid, ME.pw_gid)


@pytest.mark.parametrize("text", ["no-such-user", "", "-1", "+0", "1_0", "4000000123", "9" * 30])
def test_no_account(text: str) -> None:
    with pytest.raises(ConfigurationError, match="-u: there is no user"):
        find_account(text, "-u")


@pytest.mark.parametrize(
    ("text", "uid", "gid"),
    [
        (ME.pw_name, ME.pw_uid, -1),
        (f"{ME.pw_name}:{GROUP.gr_name}", ME.pw_uid, GROUP.gr_gid),
        (f":{GROUP.gr_name}", -1, GROUP.gr_gid),
        ("4000000123:4000000124", 4000000123, 4000000124),
    ],
)
def test_owners(text: str, uid: int, gid: int) -> None:
    assert parse_owner(text, "--socket-owner") == Owner(text, uid, gid)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names nobody"),
        (":", "names nobody"),
        ("root:", "names nobody"),
        ("no-such-user", "there is no user 'no-such-user'"),
        (":no-such-group", "there is no group 'no-such-group'"),
        # It would mean "no change" to the system.
        ("4294967295", "there is no user"),
        ("-1", "there is no user"),
    ],
)
def test_no_owners(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        parse_owner(text, "--socket-owner")


@pytest.mark.parametrize(("text", "mode"), [("0660", 0o660), ("600", 0o600), ("0o777", 0o777)])
def test_modes(text: str, mode: int) -> None:
    assert parse_mode(text, "--socket-mode") == mode


@pytest.mark.parametrize("text", ["", "rw", "0o", "888", "1777", "-1", " 600", "0x1"])
def test_no_modes(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no file mode; use an octal number"):
        parse_mode(text, "--socket-mode")


def test_the_keys_of_the_file() -> None:
    text = (
        "<zeo>\naddress ./s\nsocket-mode {}\nsocket-owner {}\n</zeo>\n"
        "<mappingstorage>\n</mappingstorage>\n"
    )
    config = parse_server_config(text.format("0660", ME.pw_name))
    assert (config.socket_mode, config.socket_owner) == (0o660, Owner(ME.pw_name, ME.pw_uid))
    with pytest.raises(ConfigurationError, match="line 3, socket-mode: 'x' is no file mode"):
        parse_server_config(text.format("x", ME.pw_name))
    with pytest.raises(ConfigurationError, match="line 4, socket-owner: there is no user"):
        parse_server_config(text.format("0660", "no-such-user"))
