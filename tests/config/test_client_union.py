"""``<zeolith>`` has every key of ZEO's sections and every keyword of the client storage."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import ZConfig
import ZODB.config

import zeolith
from zeolith.config.client import _KEYS
from zeolith.uris import KEYS as URI_KEYS
from zeolith.uris import TLS_KEYS

# ZODB's and ZEO's own schemas, as they are installed.
SCHEMA = "<schema>\n<import package='ZODB'/>\n<import package='{}'/>\n</schema>"

WITHOUT_KEY = {
    "addr",  # the key server
    "disconnect_poll",  # refused: there are two keys for the polls
    "credentials",  # an object; username and password are keys
    "debug",  # refused: the log's level is set where logs are configured
    "wait_for_server_on_startup",  # the older name of wait
    "ssl_server_hostname",  # the key server-hostname in <ssl>
}
"""Keywords that are no keys of ``<zeolith>``, and why."""


def section_of(package: str, name: str) -> dict[str | None, Any]:
    import io

    schema = ZConfig.loadSchemaFile(io.StringIO(SCHEMA.format(package)))
    return dict(schema.gettype(name))


def keywords() -> set[str]:
    return set(inspect.signature(zeolith.ClientStorage).parameters)


@pytest.mark.parametrize(("package", "name"), [("ZEO", "zeoclient"), ("ZEO", "clientstorage")])
@pytest.mark.parametrize("ours", ["zeolith", "clientstorage"])
def test_every_key_of_zeos_sections(package: str, name: str, ours: str) -> None:
    theirs = section_of(package, name)
    assert len(theirs) > 12
    assert theirs.keys() - section_of("zeolith", ours).keys() == set()


def test_every_key_of_zeos_tls() -> None:
    theirs = section_of("ZEO", "ssl")
    assert {"certificate", "authenticate", "check-hostname"} <= theirs.keys()
    assert theirs.keys() - section_of("zeolith", "ssl").keys() == set()


def test_defaults_are_zeos_unless_they_are_ours_to_choose() -> None:
    ours = section_of("zeolith", "zeolith")
    for package, name in (("ZODB", "zeoclient"), ("ZEO", "clientstorage")):
        for key, info in section_of(package, name).items():
            if key in (None, "min-disconnect-poll", "max-disconnect-poll") or info.issection():
                continue  # ZODB's polls are those of a client that is long gone
            default, same = info.getdefault(), ours[key].getdefault()
            if key == "server":
                continue
            assert str(getattr(default, "value", default)).lower() in {
                str(getattr(same, "value", same)).lower(),
                *({"false", "off", "no"} if str(getattr(same, "value", "")) == "false" else ()),
                *({"true", "on", "yes"} if str(getattr(same, "value", "")) == "true" else ()),
            }, key


@pytest.mark.parametrize("ours", ["zeolith", "clientstorage"])
def test_every_keyword_of_the_client_is_a_key(ours: str) -> None:
    attributes = {info.attribute for info in section_of("zeolith", ours).values()}
    expected = {_KEYS.get(name, name).replace("-", "_") for name in keywords() - WITHOUT_KEY}
    assert attributes - {"server"} == expected


def test_every_keyword_of_the_client_is_a_key_of_uris() -> None:
    assert keywords() - {"addr", "disconnect_poll", "credentials", "ssl"} == set(URI_KEYS)
    assert set(inspect.signature(zeolith.tls).parameters) == set(TLS_KEYS)


def test_every_key_is_documented() -> None:
    for key, info in section_of("zeolith", "zeolith").items():
        assert info.description, key


def test_in_a_database_as_zope_has_it() -> None:
    """Inside of ``<zodb>``, which ``<zodb_db>`` of Zope extends; nothing is opened yet."""
    with pytest.raises(ZConfig.ConfigurationError, match="'colour' is not a known key name"):
        ZODB.config.databaseFromString(
            "%import zeolith\n<zodb>\n<zeolith>\nserver 1\ncolour red\n</zeolith>\n</zodb>"
        )
