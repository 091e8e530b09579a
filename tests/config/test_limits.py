"""Limits given on the command line, and what docs/security.md says of all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zeolith.cli.settings import Settings, read_config
from zeolith.config.limits import KEYS, override_limits
from zeolith.config.server import ServerConfig, parse_server_config, server_schema
from zeolith.errors import ConfigurationError
from zeolith.server.options import ServerOptions
from zeolith.server.statistics import Statistics
from zeolith.server.tally import Limit

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"
CONF = "<zeo>\naddress 8100\n{}\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"
MIB = 1 << 20


@pytest.fixture
def config() -> ServerConfig:
    return parse_server_config(CONF.format("max-connections 7"))


def settings(*limits: str, no_pickle: bool = False) -> ServerConfig:
    """Return what ``serve -f Data.fs -a 8100`` means with these."""
    return read_config(
        Settings(address="8100", filenames=["Data.fs"], limits=limits, no_pickle=no_pickle)
    )


def refusal(*limits: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        settings(*limits)
    return caught.value


# -- the command line ----------------------------------------------------------------------------


def test_a_limit_overrides_the_file(config: ServerConfig) -> None:
    changes = override_limits(config, ["max-iterators=3", "max-message-size=2MB"], "--limit")
    assert changes["max_message_size"] == 2 * MIB
    assert changes["tuning"] == {**config.tuning, "max_iterators": 3}
    assert changes["tuning"]["max_connections"] == 7


def test_who_guesses_is_limited_where_somebody_logs_in() -> None:
    config = parse_server_config(CONF.format("authentication-database /x"))
    changes = override_limits(config, ["login-attempts=5"], "--limit")
    assert changes["tuning"]["login_attempts"] == 5


def test_limits_without_a_file() -> None:
    found = settings("max-connections=5", "max-connections=6", "max-transaction-duration=0")
    assert found.tuning == {"max_connections": 6, "max_transaction_duration": None}
    options = ServerOptions(address=found.address, **found.tuning)
    assert options.max_connections == 6


@pytest.mark.parametrize("key", KEYS)
def test_every_limit_can_be_given(key: str) -> None:
    """As the file has it, with its units."""
    default = server_schema().gettype("zeo").getinfo(key).getdefault().value
    found = settings(f"{key}={default}")
    options = ServerOptions(address=found.address, **found.tuning)
    if key != "max-message-size":
        name = key.replace("-", "_")
        assert getattr(options, name) == getattr(ServerOptions(address=found.address), name)


@pytest.mark.parametrize(
    ("text", "option", "problem"),
    [
        ("max-connections", "--limit", "'max-connections' is no limit"),
        ("loads=workers", "--limit", "'loads=workers' is no limit"),
        ("address=8100", "--limit", "is no limit"),
        ("max_connections=5", "--limit", "is no limit"),
        ("=5", "--limit", "is no limit"),
        ("max-connections=0", "--limit max-connections", "at least 1"),
        ("max-connections=many", "--limit max-connections", "not a whole number"),
        ("register-timeout=0", "--limit register-timeout", "greater than 0"),
        ("max-blob-size=1", "--limit max-blob-size", "too small"),
        ("incoming-limit=1MB", "--limit incoming-limit", "is less than max-message-size"),
        ("max-message-size=2GB", "--limit incoming-limit", "is less than max-message-size"),
        ("login-attempts=5", "--limit login-attempts", "no effect without authentication-data"),
    ],
)
def test_what_is_no_limit(text: str, option: str, problem: str) -> None:
    error = refusal(text)
    assert error.option == option
    assert problem in str(error)


def test_the_way_out_names_the_keys() -> None:
    assert "max-connections-per-address" in str(refusal("nonsense=1"))


# -- pickle --------------------------------------------------------------------------------------


def test_no_pickle() -> None:
    assert settings(no_pickle=True).pickle is False
    assert settings().pickle is True
    assert parse_server_config(CONF.format("pickle false")).pickle is False
    assert parse_server_config(CONF.format("pickle false\nmsgpack true")).pickle is False


def test_neither_coding_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="has no effect") as caught:
        parse_server_config(CONF.format("pickle false\nmsgpack false"))
    assert "msgpack" in str(caught.value)


# -- the document --------------------------------------------------------------------------------


def rows() -> list[list[str]]:
    """Return the cells of the table of limits."""
    text = DOCUMENT.read_text(encoding="utf-8").partition("\n## Limits\n")[2]
    table = re.findall(r"^\| (.*) \|$", text.partition("\n### ")[0], re.M)
    return [[cell.strip(" `") for cell in line.split(" | ")] for line in table[2:]]


def test_the_table_has_every_limit_and_its_default() -> None:
    schema = server_schema().gettype("zeo")
    for row in rows():
        assert len(row) == 6, row
        assert schema.getinfo(row[1]).getdefault().value == row[2], row
        assert all(row), "a cell is empty"
    keys = [row[1] for row in rows()]
    assert len(keys) == len(set(keys))
    assert set(KEYS) <= set(keys)


def test_the_table_has_every_counter() -> None:
    counters = [row[5] for row in rows()]
    kept_by_storages = set(Statistics().extras()) & set(counters)
    assert sorted(counters) == sorted({limit.value for limit in Limit} | kept_by_storages)
    assert kept_by_storages == {"slow_clients", "silent_clients", "timeouts"}
