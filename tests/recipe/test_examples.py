"""What the old recipes documented and tested, said anew."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click
import pytest
from tests.recipe.site import Site

from zeolith.cli.commands.pack import pack
from zeolith.config.server import load_server_config
from zeolith.config.userfile import read_users
from zeolith.recipe import running

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "buildout.md"


@pytest.fixture
def zope2(site: Site) -> str:
    """A Zope 2 installation, as far as it goes."""
    (site.directory / "zope2" / "lib" / "python").mkdir(parents=True)
    return str(site.directory / "zope2")


def packed(site: Site, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """Run ``bin/zeopack``; return the targets that it would pack."""
    found: list[str] = []

    def look(packer: Any, targets: list[Any], display: Any, *, dry_run: bool) -> int:
        found.extend(map(str, targets))
        return 0

    monkeypatch.setattr("zeolith.cli.commands.pack._pack_all", look)
    monkeypatch.setattr("sys.argv", ["zeopack", *arguments])
    script = site.script("zeopack")
    call = script.partition("zeolith.recipe.running.")[2].rpartition("))")[0]
    assert eval(f"{call})", vars(running)) == 0
    return found


def test_the_simplest_part(site: Site, zope2: str) -> None:
    """``recipe``, ``zope2-location`` and an address: the first example of both documents."""
    text = site.install(**{"zope2-location": zope2, "zeo-address": "8100"})
    for line in (
        f"%define INSTANCE {site.directory}/parts/zeo",
        "address 8100",
        "read-only false",
        "invalidation-queue-size 100",
        f"pid-filename {site.directory}/var/zeo.pid",
        "<filestorage 1>",
        f"path {site.directory}/var/filestorage/Data.fs",
        "level info",
        f"path {site.directory}/var/log/zeo.log",
        "format %(asctime)s %(message)s",
        f"socket-name {site.directory}/var/zeo.zdsock",
        f"logfile {site.directory}/var/log/zeo.log",
    ):
        assert line in [each.strip() for each in text.splitlines()]
    assert site.scripts() >= {"zeo", "zeopack", "repozo"}
    assert f"{zope2}/lib/python" in site.script("zeopack")


def test_a_log_of_a_package_of_its_own(site: Site) -> None:
    """A section that another package defines, as iw.rotatezlogs did."""
    site.write("lib/rotating/__init__.py", "class Factory:\n    def __init__(self, section):\n"
               "        self.level, self.section = 0, section\n")  # fmt: skip
    site.write(
        "lib/rotating/component.xml",
        '<component prefix="rotating"><import package="ZConfig.components.logger" '
        'file="abstract.xml"/><sectiontype name="rotatelogfile" implements="ZConfig.logger.handler"'
        ' datatype=".Factory"><key name="path" required="yes"/><key name="max-bytes" '
        'datatype="byte-size"/><key name="backup-count" datatype="integer"/></sectiontype>'
        "</component>",
    )
    custom = (
        f"%import rotating\n<rotatelogfile>\n  path {site.directory}/var/log/zeo.log\n"
        "  max-bytes 1MB\n  backup-count 5\n</rotatelogfile>"
    )
    text = site.install(**{"zeo-log-custom": custom, "extra-paths": "lib"})
    assert f"<eventlog>\n  level info\n{custom}\n</eventlog>" in text
    wrong = custom.replace("backup-count", "backups")
    said = site.refused(**{"zeo-log-custom": wrong, "extra-paths": "lib"})
    assert said.startswith("part zeo, option zeo-log-custom: ")
    assert "backups" in said


def test_the_level_of_the_log(site: Site) -> None:
    assert "  level error\n" in site.install(**{"zeo-log-level": "error"})


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("8001", "storage 1 of 127.0.0.1:8001"),
        ("192.168.0.11:8001", "storage 1 of 192.168.0.11:8001"),
        ("[::1]:8001", "storage 1 of [::1]:8001"),
        ("*:8001", "storage 1 of 127.0.0.1:8001"),
        ("/var/run/zeo/none.sock", "storage 1 of /var/run/zeo/none.sock"),
    ],
)
def test_zeopack_finds_the_server(
    site: Site, monkeypatch: pytest.MonkeyPatch, address: str, target: str
) -> None:
    monkeypatch.setattr("zeolith.recipe.part.check_places", lambda settings: None)
    monkeypatch.setattr("zeolith.recipe.part.make_directories", lambda settings: ())
    for name in ("filestorage", "log"):
        (site.directory / "var" / name).mkdir(parents=True)
    site.install(**{"zeo-address": address})
    assert packed(site, monkeypatch) == [target]


def test_zeopack_packs_the_storage_of_the_part(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    more = "<mappingstorage other>\n</mappingstorage>"
    site.install(**{"storage-number": "main", "zeo-conf-additional": more})
    assert packed(site, monkeypatch) == ["storage main of 127.0.0.1:8100"]
    assert packed(site, monkeypatch, "-S", "other") == ["storage other of 127.0.0.1:8100"]
    # What the script of the old recipe understood.
    assert len(packed(site, monkeypatch, "-B", "x", "-D", "3", "-W", "-1")) == 1


@pytest.mark.parametrize(("given", "days"), [({}, 1.0), ({"pack-days": "7"}, 7.0)], ids=["1", "7"])
def test_zeopack_keeps_days(
    site: Site, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], days: float
) -> None:
    asked: list[float] = []

    def moment(wanted: float, time_of_day: str | None, now: float) -> float:
        asked.append(wanted)
        return now

    monkeypatch.setattr("zeolith.admin.packtarget.pack_time", moment)
    site.install(**given)
    packed(site, monkeypatch)
    packed(site, monkeypatch, "-D", "30")
    assert asked == [days, 30]


def test_each_default_of_zeopack_is_a_parameter(site: Site) -> None:
    """A name that the command does not have would be ignored."""
    from zeolith.cli.commands.backup import backup

    site.write("password", "x\n")
    site.write("users", "realm ZEO\n").chmod(0o600)
    certificate = {"ssl-client-certificates": "none"}
    from tests.support.certificates import Certificates

    issued = Certificates(site.directory)
    pem = issued.issue("server")
    for name in ("certificate", "key", "authenticate"):
        certificate[f"pack-ssl-{name}"] = pem
    site.install(
        **{"authentication-database": "users", "pack-user": "a", "pack-password-file": "password",
           "ssl-certificate": pem, "pack-ssl-crl": pem, "pack-ssl-password-file": "password",
           "pack-ssl-server-hostname": "b", **certificate},
    )  # fmt: skip
    for script, command in (("zeopack", pack), ("zeo-backup", backup)):
        line = site.script(script).splitlines()[-1]
        given: dict[str, Any] = {}
        function = line.partition("running.")[2].partition("(")[0]
        call = line.partition("sys.exit(")[2].rpartition(")")[0].replace(
            f"zeolith.recipe.running.{function}", "given.update"
        )  # fmt: skip
        eval(call, {"given": given})
        assert len(given) >= 3
        parameters = {parameter.name for parameter in command.params}
        assert isinstance(command, click.Command)
        assert given.keys() <= parameters


def test_the_user_file_of_the_documentation(site: Site) -> None:
    """``realm``, then a name and a SHA-1 digest: users are known, and need new passwords."""
    digest = hashlib.sha1(b"jane:ZEO:secret").hexdigest()
    path = site.write("var/users", f"realm ZEO\njane:{digest}\n")
    path.chmod(0o600)
    site.install(**{"authentication-database": "var/users"})
    config = load_server_config(str(site.directory / "parts" / "zeo" / "etc" / "zeo.conf"))
    assert config.realm == "ZEO"
    assert config.user_file == str(path)
    (user,) = [each for each in read_users(path).lines if hasattr(each, "name")]
    assert user.name == "jane"


def test_the_parts_of_our_own_documentation(site: Site) -> None:
    from configparser import ConfigParser

    from tests.support.certificates import Certificates

    text = DOCUMENT.read_text()
    examples = [part.partition("```")[0] for part in text.split("```ini\n")[1:]]
    assert len(examples) == 2
    etc = site.directory / "etc"
    etc.mkdir()
    Path(Certificates(etc).issue("server")).rename(etc / "server.pem")
    site.write("etc/users", "realm ZEO\n").chmod(0o600)
    site.write("etc/packer.password", "secret\n")
    for example in examples:
        parser = ConfigParser(interpolation=None)
        parser.read_string(example)
        given = dict(parser["zeoserver"])
        assert given.pop("recipe") == "zeolith"
        assert site.recipe("zeoserver", **given).install()


def test_the_error_of_our_own_documentation(site: Site) -> None:
    from zc.buildout import UserError

    with pytest.raises(UserError) as caught:
        site.recipe("zeoserver", **{"zeo-adress": "8100"})
    assert f"\nError: {caught.value}\n" in DOCUMENT.read_text()
