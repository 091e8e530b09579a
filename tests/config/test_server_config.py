"""``zeo.conf``: all that ZEO 6.2 knows is read, all that is wrong is said with its place."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ZODB.MappingStorage

import zeolith
from zeolith.config.server import (
    TUNING,
    ServerConfig,
    load_server_config,
    msgpack_by_environment,
    parse_server_config,
)
from zeolith.errors import ConfigurationError
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.server import ServerOptions

STORAGE = "<mappingstorage>\n</mappingstorage>\n"


def conf(*keys: str, storages: str = STORAGE) -> str:
    """Return a configuration: the address is on line 2, *keys* follow from line 3 on."""
    return "\n".join(["<zeo>", "address 8100", *keys, "</zeo>", storages])


def refusal(text: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse_server_config(text, "zeo.conf")
    return caught.value


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZEO_MSGPACK", raising=False)


@pytest.fixture
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()


# -- what is read ------------------------------------------------------------------------------


def test_defaults() -> None:
    config = parse_server_config(conf())
    assert config == ServerConfig(
        address=("127.0.0.1", 8100),
        storages=config.storages,
        read_only=False,
        invalidation_queue_size=10_000,
        invalidation_age=86_400.0,
        transaction_timeout=30.0,
        client_conflict_resolution=False,
        msgpack=False,
        tls=None,
        pid_file=None,
        loop="auto",
        tuning=config.tuning,
        eventlog=None,
        source="<text>",
    )
    assert [opener.name for opener in config.storages] == ["1"]


def test_the_defaults_of_the_file_are_those_of_the_server() -> None:
    config = parse_server_config(conf())
    options = ServerOptions(address=config.address)
    assert set(config.tuning) == set(TUNING)
    for name, value in config.tuning.items():
        assert getattr(options, name) == value, name
    assert config.max_message_size == DEFAULT_LIMITS.max_message_size
    assert config.transaction_timeout == options.transaction_timeout
    assert config.invalidation_queue_size == options.invalidation_queue_size


def test_limits_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[ServerOptions] = []
    monkeypatch.setattr("zeolith.server.Server", lambda storages, options, _: given.append(options))
    parse_server_config(
        conf(
            "event-loop asyncio",
            "loads workers",
            "load-workers 3",
            "monitor-address 8099",
            "max-message-size 300MB",
            "max-transaction-size 1GB",
            "commit-memory 64kb",
            "incoming-limit 2 GB",
            "output-limit 5000000",
            "register-timeout 5s",
            "max-connections 50",
            "max-connections-per-address 20",
            "max-transaction-duration 1h",
            "max-blob-size 2MB",
            "max-iterators 4",
            "max-outstanding 5",
            "peer-log-lines 6",
            "pickle no",
            "dead-peer-timeout 1.5m",
            "compression OFF",
            "conflict-resolution Worker",
            "conflict-resolution-timeout 1m",
            "conflict-resolution-memory 200MB",
            "shutdown-grace 0",
        )
    ).make_server()
    (options,) = given
    assert options.loop == "asyncio"
    assert options.loads == "workers"
    assert options.load_workers == 3
    assert options.monitor_address == ("127.0.0.1", 8099)
    assert options.limits.max_message_size == 300 * 1024**2
    assert options.max_transaction_size == 1024**3
    assert options.commit_memory == 65536
    assert options.incoming_limit == 2 * 1024**3
    assert options.output_limit == 5_000_000
    assert options.register_timeout == 5
    assert options.dead_peer_timeout == 90
    assert (options.max_connections, options.max_connections_per_address) == (50, 20)
    assert options.max_transaction_duration == 3600
    assert options.max_blob_size == 2 * 1024**2
    assert (options.max_iterators, options.max_outstanding, options.peer_log_lines) == (4, 5, 6)
    assert options.pickle is False
    assert options.compression == "off"
    assert options.conflict_resolution == options.resolves_conflicts == "worker"
    assert options.resolution_timeout == 60
    assert options.resolution_memory == 200 * 1024**2
    assert options.shutdown_grace == 0


def test_monitor_address_is_served(tmp_path: Path) -> None:
    path = f"{tmp_path}/monitor"
    _, stop = zeolith.server(zeo_conf={"monitor_address": path})
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(path)
            with client.makefile("rb") as stream:
                report = stream.read().decode()  # until the server closes
    finally:
        stop()
    assert "Commits: " in report


def test_values_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEO_PORT", "8123")
    config = parse_server_config("<zeo>\naddress $(ZEO_PORT)\n</zeo>\n" + STORAGE)
    assert config.address == ("127.0.0.1", 8123)


def test_every_key(tmp_path: Path) -> None:
    config = parse_server_config(
        conf(
            "read-only true",
            "invalidation-queue-size 7",
            "invalidation-age 3600.5",
            "transaction-timeout 1.5",
            f"pid-filename {tmp_path}/zeo.pid",
            "client-conflict-resolution yes",
            "msgpack on",
        )
    )
    assert config.read_only is True
    assert config.invalidation_queue_size == 7
    assert config.invalidation_age == 3600.5
    assert config.transaction_timeout == 1.5
    assert config.pid_file == f"{tmp_path}/zeo.pid"
    assert config.client_conflict_resolution is True
    assert config.msgpack is True


def test_a_time_out_of_0_means_none() -> None:
    assert parse_server_config(conf("transaction-timeout 0")).transaction_timeout is None


@pytest.mark.parametrize(
    ("environment", "key", "msgpack"),
    [("", "", False), ("1", "", True), ("1", "msgpack false", False), ("", "msgpack true", True)],
)
def test_msgpack_by_environment_unless_the_file_says(
    monkeypatch: pytest.MonkeyPatch, environment: str, key: str, msgpack: bool
) -> None:
    monkeypatch.setenv("ZEO_MSGPACK", environment)
    assert parse_server_config(conf(key)).msgpack is msgpack


def test_msgpack_by_environment_needs_a_value() -> None:
    assert not msgpack_by_environment({})
    assert not msgpack_by_environment({"ZEO_MSGPACK": ""})
    assert msgpack_by_environment({"ZEO_MSGPACK": "0"})


def test_every_form_of_address() -> None:
    text = "<zeo>\naddress {}\n</zeo>\n" + STORAGE
    for written, read in [
        ("8100", ("127.0.0.1", 8100)),
        ("*:8100", ("", 8100)),
        ("[::1]:8100", ("::1", 8100)),
        ("/run/zeo.sock", "/run/zeo.sock"),
    ]:
        assert parse_server_config(text.format(written)).address == read


def test_several_storages_of_all_kinds(tmp_path: Path) -> None:
    config = parse_server_config(
        conf(
            storages=f"""
            <filestorage main>
              path {tmp_path}/Data.fs
              blob-dir {tmp_path}/blobs
            </filestorage>
            <demostorage>
              <mappingstorage>
              </mappingstorage>
            </demostorage>
            <mappingstorage temp>
            </mappingstorage>
            """
        )
    )
    storages = config.open_storages()
    try:
        assert list(storages) == ["main", "1", "temp"]
        assert isinstance(storages["temp"], ZODB.MappingStorage.MappingStorage)
        assert (tmp_path / "Data.fs").exists()
        assert (tmp_path / "blobs").is_dir()
    finally:
        for storage in storages.values():
            storage.close()


def test_a_runner_section_is_accepted(tmp_path: Path) -> None:
    config = parse_server_config(
        conf(
            storages=f"{STORAGE}<runner>\nprogram zeolith serve -C zeo.conf\nuser zope\n"
            f"directory {tmp_path}\n</runner>"
        )
    )
    assert config.address == ("127.0.0.1", 8100)


@pytest.mark.usefixtures("_root_logger")
def test_eventlog_sets_up_logging_when_called(tmp_path: Path) -> None:
    log = tmp_path / "zeo.log"
    eventlog = f"<eventlog>\nlevel debug\n<logfile>\npath {log}\n</logfile>\n</eventlog>"
    config = parse_server_config(conf(storages=STORAGE + eventlog))
    assert not log.exists()
    config.eventlog()
    logging.getLogger("zeolith.test").debug("said before")
    log.rename(tmp_path / "zeo.log.1")
    config.eventlog.reopen()
    logging.getLogger("zeolith.test").debug("said after")
    assert "said before" in (tmp_path / "zeo.log.1").read_text()
    assert "said after" in log.read_text()


def test_a_file_with_definitions_and_an_include(tmp_path: Path) -> None:
    (tmp_path / "storages.conf").write_text("<filestorage>\npath $dir/Data.fs\n</filestorage>\n")
    path = tmp_path / "zeo.conf"
    path.write_text(
        f"%define dir {tmp_path}\n<zeo>\naddress $dir/zeo.sock\n</zeo>\n%include storages.conf\n"
    )
    config = load_server_config(path)
    assert config.address == f"{tmp_path}/zeo.sock"
    assert config.source == str(path)
    assert [opener.name for opener in config.storages] == ["1"]


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "option", "problem", "remedy"),
    [
        (["nonsense 1"], "line 3, nonsense", "not a known key", "correct its name"),
        (["monitor-address here"], "line 3, monitor-address", "has no port", "HOST:PORT"),
        (["authentication-realm x"], "line 3, authentication-realm", "no effect", "file of users"),
        (
            ["authentication-protocol digest"],
            "line 3, authentication-protocol",
            "no effect",
            "file of users",
        ),
        (["login-attempts 5"], "line 3, login-attempts", "no effect", "file of users"),
        (
            ["authentication-protocol srp"],
            "line 3, authentication-protocol",
            "'srp' is unknown",
            "scram-sha-256, digest",
        ),
        (
            ["monitor-address 9", "authentication-database x"],
            "line 3, monitor-address",
            "nobody could read it",
            "zeolith status",
        ),
        (["event-loop twisted"], "line 3, event-loop", "'twisted' is unknown", "auto, uvloop"),
        (["loads disk"], "line 3, loads", "'disk' is unknown", "auto, loop, workers"),
        (["load-workers 0"], "line 3, load-workers", "at least 1", "1 or greater"),
        (["output-limit 1"], "line 3, output-limit", "too small", "at least 1MB"),
        (["commit-memory -4MB"], "line 3, commit-memory", "not a size", "64KB"),
        (["commit-memory 0"], "line 3, commit-memory", "not a size", "64KB"),
        (["dead-peer-timeout 0"], "line 3, dead-peer-timeout", "cannot be agreed", "1 to 86400 s"),
        (["dead-peer-timeout 2d"], "line 3, dead-peer-timeout", "cannot be agreed", "1 to 86400 s"),
        (["compression yes"], "line 3, compression", "'yes' is unknown", "auto, on, off"),
        (
            ["conflict-resolution on"],
            "line 3, conflict-resolution",
            "'on' is unknown",
            "in-process",
        ),
        (
            ["client-conflict-resolution true", "conflict-resolution worker"],
            "line 4, conflict-resolution",
            "no effect, because the clients resolve conflicts (client-conflict-resolution)",
            "remove one of the two",
        ),
        (
            ["conflict-resolution in-process", "conflict-resolution-timeout 1"],
            "line 4, conflict-resolution-timeout",
            "has no effect, because there is no worker",
            "conflict-resolution worker",
        ),
        (
            ["client-conflict-resolution true", "conflict-resolution-memory 1GB"],
            "line 4, conflict-resolution-memory",
            "has no effect",
            "remove it",
        ),
        (
            ["conflict-resolution-memory 100MB"],
            "line 3, conflict-resolution-memory",
            "too little for a worker",
            "give at least 128MB",
        ),
        (["conflict-resolution-timeout 0"], "line 3, conflict-resolution-timeout", "greater", "5m"),
        (["register-timeout 0"], "line 3, register-timeout", "greater than 0", "5m"),
        (
            ["incoming-limit 2MB", "read-only true"],
            "line 3, incoming-limit",
            "less than max-message-size",
            "as much",
        ),
        (["", "read-only perhaps"], "line 4, read-only", "not a valid boolean", "true or false"),
        (["read-only"], "line 3, read-only", "not a valid boolean", "true or false"),
        (["address 9"], "line 3, address", "does not support multiple values", "keep one"),
        (
            ["transaction-timeout soon"],
            "line 3, transaction-timeout",
            "'soon' is not a number of seconds",
            "0 or greater",
        ),
        (["transaction-timeout -1"], "line 3, transaction-timeout", "not a number of", "0 or"),
        (["transaction-timeout nan"], "line 3, transaction-timeout", "not a number of", "0 or"),
        (["invalidation-age inf"], "line 3, invalidation-age", "not a number of", "0 or"),
        (
            ["invalidation-queue-size 1.5"],
            "line 3, invalidation-queue-size",
            "not a whole number",
            "0 or",
        ),
        (
            ["pid-filename /missing/directory/zeo.pid"],
            "line 3, pid-filename",
            "does not exist",
            "create the directory",
        ),
        (["pid-filename $nowhere"], "line 3, pid-filename", "no replacement", "%define nowhere"),
        (["<ssl>", "</ssl>"], "line 3, <ssl>", "certificate is missing", "name the file"),
        (
            ["<ssl>", "certificate /missing/a", "authenticate /missing/b", "</ssl>"],
            "line 5, authenticate",
            "/missing/b cannot be used: No such file",
            "certificates in PEM form",
        ),
        (["</zoo>"], "line 3, </zoo>", "no such section is open", "write </zeo>"),
        (["reed-only true"], "line 3, reed-only", "not a known key", "did you mean read-only?"),
    ],
)
def test_bad_keys(keys: list[str], option: str, problem: str, remedy: str) -> None:
    error = refusal(conf(*keys))
    assert error.option == f"zeo.conf, {option}"
    assert problem in error.problem
    assert remedy in error.remedy


@pytest.mark.parametrize(
    ("storages", "option", "problem", "remedy"),
    [
        ("", "zeo.conf", "there is no storage", "add one"),
        ("<filestorage>\n</filestorage>", "zeo.conf, line 4, <filestorage>", "key path", "add it"),
        (
            "<filestorage>\npath /missing/Data.fs\n</filestorage>",
            "zeo.conf, line 5, path",
            "/missing/Data.fs",
            "create the directory",
        ),
        (
            "<clouds>\n</clouds>",
            "zeo.conf, line 4, <clouds>",
            "unknown type name",
            "%import the package",
        ),
        (
            "%import no.such.package",
            "zeo.conf, line 4, %import no.such.package",
            "could not load package",
            "install the package",
        ),
        (
            "%include /missing/x.conf",
            "zeo.conf, line 4, %include /missing/x.conf",
            "cannot be read",
            "check the path",
        ),
        (STORAGE * 2, "zeo.conf", "2 storages have no name", "<filestorage main>"),
        (
            "<mappingstorage a>\n</mappingstorage>\n<mappingstorage A>\n</mappingstorage>",
            "zeo.conf, line 6, <mappingstorage a>",
            "must not be re-used",
            "its own name",
        ),
        (
            STORAGE + "<mappingstorage 1>\n</mappingstorage>",
            "zeo.conf",
            "two storages are called '1'",
            "its own name",
        ),
        (
            STORAGE + "<eventlog>\nlevel shouting\n</eventlog>",
            "zeo.conf, line 7, level",
            "shouting",
            "",
        ),
    ],
)
def test_bad_storages_and_sections(storages: str, option: str, problem: str, remedy: str) -> None:
    error = refusal(conf(storages=storages))
    assert error.option == option
    assert problem in error.problem
    assert remedy in error.remedy


def test_no_zeo_section() -> None:
    error = refusal(STORAGE)
    assert error.option == "zeo.conf"
    assert error.problem == "there is no <zeo> section"
    assert error.remedy == "add one"


def test_a_bad_address_says_what_is_possible() -> None:
    error = refusal("<zeo>\naddress localhost\n</zeo>\n" + STORAGE)
    assert str(error) == (
        "zeo.conf, line 2, address: 'localhost' has no port; "
        "use PORT, HOST:PORT, [IPv6]:PORT, *:PORT or a path with a slash in it"
    )


def test_an_error_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    included = tmp_path / "more.conf"
    included.write_text("\n<mappingstorage>\ncolour blue\n</mappingstorage>\n")
    path = tmp_path / "zeo.conf"
    path.write_text("<zeo>\naddress 1\n</zeo>\n%include more.conf\n")
    with pytest.raises(ConfigurationError) as caught:
        load_server_config(path)
    assert caught.value.option == f"{included}, line 3, colour"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_server_config(tmp_path / "missing.conf")
    assert caught.value.option == f"{tmp_path}/missing.conf"
    assert "No such file" in caught.value.problem
    with pytest.raises(ConfigurationError) as caught:
        load_server_config(tmp_path)
    assert caught.value.remedy == "name a file, not a directory"


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "Data.fs"
    path.write_bytes(b"FS30\xff\xfe\x00\x80")
    with pytest.raises(ConfigurationError) as caught:
        load_server_config(path)
    assert caught.value.option == str(path)
    assert "not text in UTF-8" in caught.value.problem
