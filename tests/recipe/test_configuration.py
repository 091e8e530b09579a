"""The zeo.conf of a part: each option's line, and what is wrong with its value."""

from __future__ import annotations

import os
from typing import Any

import pytest
from tests.recipe.site import Site
from tests.support.certificates import Certificates

from zeolith.config.server import ServerConfig, load_server_config


def load(site: Site, **given: str) -> ServerConfig:
    site.install(**given)
    return load_server_config(str(site.directory / "parts" / "zeo" / "etc" / "zeo.conf"))


def storage(config: ServerConfig) -> Any:
    (opener,) = config.storages
    return opener.config  # type: ignore[attr-defined]


def test_the_defaults(site: Site) -> None:
    config = load(site)
    var = site.directory / "var"
    assert config.address == ("127.0.0.1", 8100)
    assert config.invalidation_queue_size == 100
    assert config.transaction_timeout == 30
    assert not config.read_only
    assert config.pid_file == str(var / "zeo.pid")
    assert config.monitor_address is None
    assert config.user_file is None
    assert config.tls is None
    assert [opener.name for opener in config.storages] == ["1"]
    assert storage(config).path == str(var / "filestorage" / "Data.fs")
    assert storage(config).blob_dir == str(var / "blobstorage")
    assert config.runner.socket_name == str(var / "zeo.zdsock")
    assert config.runner.logfile == str(var / "log" / "zeo.log")
    assert config.runner.directory == str(var)
    assert config.runner.user is None
    text = site.conf()
    assert "level info" in text
    assert "format %(asctime)s %(message)s" in text
    assert {"var/filestorage", "var/log", "var/backups"} <= site.files()
    # The server makes that, with permissions of its own.
    assert not (var / "blobstorage").exists()


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("zeo-address", "192.168.7.7:8200", "address 192.168.7.7:8200"),
        ("zeo-address", "[::1]:8200", "address [::1]:8200"),
        ("effective-user", "root", "user root"),
        ("invalidation-queue-size", "5", "invalidation-queue-size 5"),
        ("invalidation-age", "2h", "invalidation-age 2h"),
        ("transaction-timeout", "7", "transaction-timeout 7"),
        ("read-only", "true", "read-only true"),
        ("client-conflict-resolution", "true", "client-conflict-resolution true"),
        ("msgpack", "true", "msgpack true"),
        ("msgpack", "off", "msgpack false"),
        ("monitor-address", "8101", "monitor-address 8101"),
        ("storage-number", "main", "<filestorage main>"),
        ("pack-gc", "false", "pack-gc false"),
        ("pack-keep-old", "false", "pack-keep-old false"),
        ("zeo-log-level", "debug", "level debug"),
        ("zeo-log-format", "%(message)s costs $$1", "format %(message)s costs $$$$1"),
        ("zeo-conf-additional", "<mappingstorage 2>\n</mappingstorage>", "<mappingstorage 2>"),
    ],
)
def test_an_option_is_a_line(site: Site, option: str, value: str, line: str) -> None:
    text = site.install(**{option: value})
    assert line in [each.strip() for each in text.splitlines()]
    # The server takes it as well.
    load_server_config(str(site.directory / "parts" / "zeo" / "etc" / "zeo.conf"))


@pytest.mark.parametrize("option", ["pack-gc", "pack-keep-old"])
def test_what_is_the_default_of_the_storage_is_not_written(site: Site, option: str) -> None:
    assert option not in site.install(**{option: "true"})


@pytest.mark.parametrize(
    "option", ["effective-user", "monitor-address", "authentication-database", "zeo-log-custom"]
)
def test_an_empty_value_of_what_has_no_default_is_none(site: Site, option: str) -> None:
    assert site.install(**{option: ""}) == site.install()


@pytest.mark.parametrize(
    "option", ["zeo-address", "file-storage", "zeo-log", "socket-name", "pid-file", "pack-days"]
)
def test_an_empty_value_of_what_has_a_default_is_refused(site: Site, option: str) -> None:
    said = site.refused(**{option: ""})
    assert said.startswith(f"part zeo, option {option}: is empty; remove the line for ")


def test_old_log_files(site: Site) -> None:
    text = site.install(**{"zeo-log-max-size": "10MB"})
    assert "    max-size 10MB\n    old-files 1\n" in text
    text = site.install(**{"zeo-log-max-size": "10MB", "zeo-log-old-files": "5"})
    assert "    max-size 10MB\n    old-files 5\n" in text


def test_a_log_of_another_kind(site: Site) -> None:
    custom = "<syslog>\n  facility local0\n</syslog>"
    text = site.install(**{"zeo-log-custom": custom, "zeo-log": "elsewhere.log"})
    assert f"<eventlog>\n  level info\n{custom}\n</eventlog>" in text
    assert "<logfile>" not in text
    # What logtail shows.
    assert f"logfile {site.directory}/var/elsewhere.log" in text


def test_without_blobs(site: Site) -> None:
    assert "blob-dir" not in site.install(**{"blob-storage": ""})


def test_a_storage_of_another_place(site: Site) -> None:
    config = load(site, **{"file-storage": "a/b.fs", "blob-storage": "/c/d"})
    assert storage(config).path == str(site.directory / "var" / "a" / "b.fs")
    assert storage(config).blob_dir == "/c/d"


def test_var(site: Site) -> None:
    config = load(site, var="data")
    data = site.directory / "data"
    assert storage(config).path == str(data / "filestorage" / "Data.fs")
    assert config.pid_file == str(data / "zeo.pid")
    assert config.runner.socket_name == str(data / "zeo.zdsock")
    assert not (site.directory / "var").exists()


def test_a_unix_socket_is_below_the_buildout(site: Site) -> None:
    config = load(site, **{"zeo-address": "run/zeo.sock"})
    assert config.address == str(site.directory / "run" / "zeo.sock")
    assert (site.directory / "run").is_dir()


def test_a_dollar_sign_in_a_path_is_none_of_zeo_confs(site: Site) -> None:
    config = load(site, **{"file-storage": "${x}$y/Data.fs"})
    assert storage(config).path == str(site.directory / "var" / "${x}$y" / "Data.fs")


def test_instance_can_be_used_in_further_lines(site: Site) -> None:
    site.write("parts/here", "")
    more = "<filestorage 2>\n  path $INSTANCE/../Other.fs\n</filestorage>"
    config = load(site, **{"zeo-conf-additional": more})
    assert config.storages[1].config.path == str(  # type: ignore[attr-defined]
        site.directory / "parts" / "zeo" / ".." / "Other.fs"
    )


def test_users(site: Site) -> None:
    site.write("etc/users", "realm ZEO\n").chmod(0o600)
    given = {"authentication-database": "etc/users"}
    config = load(site, **given)
    assert config.user_file == str(site.directory / "etc" / "users")
    assert config.realm == "ZEO"
    assert load(site, **given, **{"authentication-realm": "mine"}).realm == "mine"


def test_tls(site: Site) -> None:
    issued = Certificates(site.directory)
    certificate, client = issued.issue("server"), issued.issue("client")
    password = site.write("password", "secret\n")
    config = load(
        site,
        **{
            "ssl-certificate": os.path.basename(issued.encrypt(certificate, b"secret")),
            "ssl-password-file": str(password),
            "ssl-authenticate": issued.root,
            "ssl-client-certificates": "optional",
            "ssl-minimum-version": "1.3",
        },
    )
    assert config.tls is not None
    settings = config.tls.settings
    assert settings.authenticate == issued.root
    assert settings.client_certificates == "optional"
    assert settings.minimum_version == "1.3"
    given = {"ssl-certificate": certificate, "ssl-authenticate": issued.root}
    assert "pack-ssl" not in site.install(**given)
    assert "certificate=" not in site.script("zeopack")
    more = {"pack-ssl-certificate": client, "pack-ssl-authenticate": issued.root}
    site.install(**given, **more, **{"pack-ssl-server-hostname": "server.example"})
    script = site.script("zeopack")
    assert f"certificate={client!r}" in script
    assert "server_hostname='server.example'" in script


@pytest.mark.parametrize("old", [True, False])
def test_the_two_sets_of_defaults(site: Site, old: bool) -> None:
    given = {"defaults": "zope2zeoserver" if old else "zeoserver"}
    base = site.directory if old else site.directory / "var"
    text = site.install(**given)
    assert ("blob-dir" in text) is not old
    assert f"path {site.directory}/var/filestorage/Data.fs" in text
    assert f"path {site.directory}/var/log/zeo.log" in text
    text = site.install(
        **given, **{"file-storage": "x/D.fs", "zeo-log": "y/z.log", "blob-storage": "blobs"}
    )
    assert f"path {base}/x/D.fs" in text
    assert f"path {base}/y/z.log" in text
    assert f"blob-dir {base}/blobs" in text


def test_a_part_of_the_older_recipe_is_told_by_its_location(site: Site) -> None:
    zope = site.directory / "zope2"
    zope.mkdir()
    text = site.install(**{"zope2-location": str(zope)})
    assert "blob-dir" not in text
    assert "blob-dir" in site.install(**{"zope2-location": str(zope), "defaults": "zeoserver"})


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("zeo-address", "99999999", "port 99999999 is too large; use 0 to 65535"),
        ("zeo-address", "::1:8100", "is ambiguous; write an IPv6 address in brackets"),
        ("zeo-address", "localhost", "has no port; use PORT"),
        ("zeo-address", "my host:8100", "has a blank in it; use PORT"),
        ("monitor-address", "8100", "is that of zeo-address; choose another port"),
        ("monitor-address", "*:8100", "is that of zeo-address; choose another port"),
        ("zeo-address", "/" + "x" * 200, "the system allows"),
        ("monitor-address", "nowhere", "has no port; use PORT"),
        ("invalidation-queue-size", "many", "is not a whole number; give a number"),
        ("invalidation-age", "-1", "is not a number of seconds; give a number"),
        ("transaction-timeout", "soon", "is not a number of seconds; give a number"),
        ("zeo-log-level", "loud", "use critical, error, warn"),
        ("zeo-log-format", "%(nothing", "incomplete format key"),
        ("zeo-log-max-size", "huge", "huge"),
        ("read-only", "maybe", "'maybe' is neither true nor false; use one of them"),
        ("pack-gc", "perhaps", "is neither true nor false"),
        ("relative-paths", "sometimes", "is neither true nor false"),
        ("pack-days", "-3", "is not a number of days; give a number"),
        ("pack-days", "week", "is not a number of days"),
        ("storage-number", "a b", "cannot be the name of a storage; use small letters"),
        ("storage-number", "Main", "cannot be the name of a storage"),
        ("effective-user", "nobody-of-this-name", "nobody-of-this-name"),
        ("defaults", "newest", "'newest' is unknown; use zeoserver or zope2zeoserver"),
        ("initialization", "import (", "is not Python"),
        ("zeopack-script-name", "a/b", "is no name of a script; give a name"),
        ("repozo-script-name", "zeopack", "there is another script 'zeopack'"),
        ("backup-script-name", "zeo", "there is another script 'zeo'"),
        ("zeo-address", "8100\n  read-only true", "has more than one line"),
        ("socket-name", "/" + "x" * 120, "is too long for a socket, by"),
        ("zeo-conf-additional", "<nothing>\n</nothing>", "<nothing>: unknown type name"),
        ("zeo-conf-additional", "<zeo>\naddress 1\n</zeo>", "zeo"),
        ("zeo-conf-additional", "<mappingstorage 1>\n</mappingstorage>", "1"),
        ("zeo-conf-additional", "%include /nowhere/at/all", "cannot be read"),
        ("zeo-conf-additional", "%import no_such_package", "no_such_package"),
        ("zeo-log-custom", "<logfile>\n</logfile>", "path"),
    ],
)
def test_a_value_that_cannot_be_used(site: Site, option: str, value: str, problem: str) -> None:
    said = site.refused(**{option: value})
    assert said.startswith(f"part zeo, option {option}: ")
    assert problem in said


@pytest.mark.parametrize(
    ("option", "value"),
    [("zeo-adress", "8100"), ("transaction-timeout", "soon"), ("file-storage", "/proc")],
)
def test_mistakes_are_told_before_buildout_removes_anything(
    site: Site, option: str, value: str
) -> None:
    from zc.buildout import UserError

    with pytest.raises(UserError, match=f"^part zeo, option {option}: "):
        site.recipe(**{option: value})


def test_what_has_changed_since_is_looked_at_again(site: Site) -> None:
    from zc.buildout import UserError

    recipe = site.recipe()
    site.write("var", "")
    with pytest.raises(UserError, match=r"^part zeo, option var: .* is not a directory"):
        recipe.install()


def test_two_mistakes_are_told_together(site: Site) -> None:
    said = site.refused(**{"invalidation-age": "x", "transaction-timeout": "y"})
    assert "option invalidation-age: " in said
    assert "option transaction-timeout: " in said


@pytest.mark.parametrize(
    ("given", "option", "problem"),
    [
        ({"zeo-log-old-files": "3"}, "zeo-log-old-files", "without zeo-log-max-size"),
        ({"authentication-realm": "x"}, "authentication-realm", "without authentication-database"),
        ({"ssl-key": "x"}, "ssl-key", "without ssl-certificate"),
        ({"ssl-minimum-version": "1.3"}, "ssl-minimum-version", "without ssl-certificate"),
        ({"pack-ssl-crl": "x"}, "pack-ssl-crl", "without ssl-certificate"),
        ({"pack-password": "x"}, "pack-password", "without pack-user"),
        ({"pack-user": "x", "pack-password": "y"}, "pack-user", "without authentication-database"),
        ({"zeo-conf": "x", "file-storage": "y"}, "file-storage", "no effect with zeo-conf"),
        ({"zeo-conf": "x", "read-only": "true"}, "read-only", "no effect with zeo-conf"),
        ({"zeo-log-custom": "x", "zeo-log-format": "y"}, "zeo-log-format", "with zeo-log-custom"),
        ({"zeopack": "", "pack-days": "3"}, "pack-days", "has no effect: zeopack is"),
        ({"zeopack-script-name": "", "pack-days": "3"}, "pack-days", "has no effect: zeopack is"),
        (
            {"backup-script-name": "", "backup-directory": "x"},
            "backup-directory",
            "with an empty backup-script-name",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value.replace(" ", "-"),
)
def test_what_would_have_no_effect(
    site: Site, given: dict[str, str], option: str, problem: str
) -> None:
    said = site.refused(**given)
    assert said.startswith(f"part zeo, option {option}: ")
    assert problem in said


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({}, "option pack-user: has no password; add pack-password-file"),
        (
            {"pack-password": "x", "pack-password-file": "y"},
            "option pack-password: contradicts pack-password-file",
        ),
    ],
    ids=["none", "two"],
)
def test_a_user_has_one_password(site: Site, more: dict[str, str], problem: str) -> None:
    assert problem in site.refused(
        **{"authentication-database": "users", "pack-user": "packer"}, **more
    )


@pytest.mark.parametrize(
    ("option", "more"),
    [
        ("zeo-conf", {}),
        ("zeopack", {}),
        ("repozo", {}),
        ("zope2-location", {}),
        ("authentication-database", {}),
        ("ssl-certificate", {"ssl-client-certificates": "none"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_missing(site: Site, option: str, more: dict[str, str]) -> None:
    said = site.refused(**{option: "no/such/file"}, **more)
    assert said.startswith(f"part zeo, option {option}: ")
    assert "no/such/file" in said


@pytest.mark.parametrize("option", ["zeo-conf", "zeopack", "repozo", "authentication-database"])
def test_a_directory_in_place_of_a_file(site: Site, option: str) -> None:
    (site.directory / "here").mkdir()
    said = site.refused(**{option: "here"})
    assert said == f"part zeo, option {option}: {site.directory}/here is a directory; name a file"


def test_a_file_that_cannot_be_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = site.write("mypack.py", "")
    access = os.access
    # Root can read everything.
    monkeypatch.setattr(os, "access", lambda each, mode: each != path and access(each, mode))
    said = site.refused(zeopack="mypack.py")
    assert said == f"part zeo, option zeopack: {path} cannot be read; change its permissions"


def test_a_directory_of_authorities(site: Site) -> None:
    """As OpenSSL has them: files that are named by their hashes."""
    issued = Certificates(site.directory)
    certificate = issued.issue("server")
    (site.directory / "authorities").mkdir()
    given = {"ssl-certificate": certificate, "ssl-authenticate": issued.root}
    site.install(**given, **{"pack-ssl-authenticate": "authorities"})
    assert f"authenticate='{site.directory}/authorities'" in site.script("zeopack")


def test_a_certificate_that_is_none(site: Site) -> None:
    path = site.write("certificate.pem", "nothing\n")
    said = site.refused(**{"ssl-certificate": str(path), "ssl-client-certificates": "none"})
    assert said.startswith("part zeo, option ssl-certificate: ")


def test_clients_without_anybody_to_trust(site: Site) -> None:
    certificate = Certificates(site.directory).issue("server")
    said = site.refused(**{"ssl-certificate": certificate})
    assert said.startswith("part zeo, option ssl-certificate: ")
    assert "authenticate is missing" in said


def test_a_name_that_is_no_option(site: Site) -> None:
    said = site.refused(**{"zeo-adress": "8100"})
    assert said.startswith(
        "part zeo, option zeo-adress: is no option of this recipe; did you mean zeo-address"
    )


@pytest.mark.parametrize("name", ["location", "bin-directory"])
def test_what_the_recipe_itself_says_is_no_option(site: Site, name: str) -> None:
    assert "is no option of this recipe" in site.refused(**{name: "x"})


def test_a_configuration_of_ones_own(site: Site) -> None:
    own = site.write(
        "etc/own.conf",
        "<zeo>\naddress 127.0.0.1:8200\n</zeo>\n<mappingstorage a>\n</mappingstorage>\n",
    )
    text = site.install(**{"zeo-conf": "etc/own.conf"})
    assert f"%include {own}\n" in text
    assert str(own) in site.script("zeo")
    assert "names=" not in site.script("zeopack")
    given = {"zeo-conf": str(own), "zeo-address": "8200", "storage-number": "a"}
    assert "names=('a',)" in (site.install(**given), site.script("zeopack"))[1]
    assert "8100, but" in site.refused(**{**given, "zeo-address": "8100"})
    said = site.refused(**{**given, "storage-number": "b"})
    assert said.endswith("has no storage 'b'; it has a")
    own.write_text("<zeo>\n</zeo>\n")
    assert site.refused(**{"zeo-conf": str(own)}).startswith("part zeo, option zeo-conf: ")


def test_what_another_part_makes_first_may_be_missing_before(site: Site) -> None:
    recipe = site.recipe(**{"authentication-database": "later", "zope2-location": "zope2"})
    site.write("later", "realm ZEO\n").chmod(0o600)
    (site.directory / "zope2").mkdir()
    recipe.install()


@pytest.mark.parametrize(
    "option", ["var", "file-storage", "zeo-log", "pid-file", "socket-name", "backup-directory"]
)
def test_a_place_that_cannot_be_written_to(site: Site, option: str) -> None:
    # Not even root can make something there.
    value = "/proc/none" if option == "var" else "/proc/none/file"
    said = site.refused(**{option: value})
    assert said.startswith(f"part zeo, option {option}: ")


@pytest.mark.parametrize(
    "option",
    [
        "var", "file-storage", "blob-storage", "zeo-log", "pid-file", "socket-name", "zeo-address",
        "monitor-address", "backup-directory", "zeo-conf", "zeopack", "repozo", "ssl-certificate",
    ],
)  # fmt: skip
def test_a_place_in_the_part(site: Site, option: str) -> None:
    """It would be gone with the next change of the part: databases are kept there by mistake."""
    (site.directory / "parts" / "zeo").mkdir()
    value = str(site.directory / "var" / ".." / "parts" / "zeo" / "x")
    more = {"zeo-conf": {}, "ssl-certificate": {"ssl-client-certificates": "none"}}
    said = site.refused(**{option: value}, **more.get(option, {}))
    assert said.startswith(f"part zeo, option {option}: ")
    assert "is in the part's directory, which is removed when the part changes" in said


@pytest.mark.parametrize(
    ("given", "option", "other"),
    [
        ({"pid-file": "var/filestorage/Data.fs"}, "pid-file", "file-storage"),
        ({"zeo-log": "zeo.pid"}, "zeo-log", "pid-file"),
        ({"zeo-address": "var/x", "socket-name": "var/y/../x"}, "zeo-address", "socket-name"),
        ({"monitor-address": "var/x", "zeo-address": "var/x"}, "monitor-address", "zeo-address"),
        ({"backup-directory": "var/blobstorage"}, "blob-storage", "backup-directory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_place_for_two_things(
    site: Site, given: dict[str, str], option: str, other: str
) -> None:
    said = site.refused(**given)
    assert said.startswith(f"part zeo, option {option}: is {site.directory}/var/")
    assert said.endswith(f", and so is {other}; name another place for one of them")


def test_a_monitor_at_another_address(site: Site) -> None:
    assert "monitor-address 8101\n" in site.install(**{"monitor-address": "8101"})
    given = {"zeo-address": "127.0.0.1:8100", "monitor-address": "127.0.0.2:8100"}
    assert "monitor-address 127.0.0.2:8100\n" in site.install(**given)
    text = site.install(**{"monitor-address": "run/monitor", "relative-paths": "true"})
    assert "  monitor-address $(ZEOLITH_BUILDOUT)/run/monitor\n" in text
    assert (site.directory / "run").is_dir()


@pytest.mark.parametrize("option", ["file-storage", "blob-storage", "zeo-log"])
def test_a_place_where_something_else_is(site: Site, option: str) -> None:
    here = site.directory / "here"
    if option == "blob-storage":
        here.write_text("")
    else:
        here.mkdir()
    said = site.refused(**{option: str(here)})
    assert said.startswith(f"part zeo, option {option}: ")
    assert "directory" in said


def test_a_log_that_is_no_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody but root may make something beside it, and nobody has to."""
    from zeolith.config.checks.rights import Rights

    may = Rights.may
    monkeypatch.setattr(
        Rights, "may", lambda rights, path, mode: str(path) != "/dev" and may(rights, path, mode)
    )
    assert "    path /dev/null\n" in site.install(**{"zeo-log": "/dev/null"})
    assert site.refused(**{"zeo-log": "/dev/none"}).startswith("part zeo, option zeo-log: ")


def test_scripts_that_cannot_be_made(site: Site) -> None:
    site.main["bin-directory"] = "/proc"
    said = site.refused()
    assert said.startswith("part zeo, /")
    assert "cannot be written: " in said
    site.main["bin-directory"] = "/proc/1/none"
    site.main["parts-directory"] = str(site.write("file", ""))
    said = site.refused()
    assert said.startswith("part zeo, parts-directory of [buildout]: ")
