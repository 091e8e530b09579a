"""What a part consists of, and when it is made anew."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.recipe.site import Site


def test_what_is_made_is_told_to_buildout(site: Site) -> None:
    paths = site.recipe().install()
    bin_ = site.directory / "bin"
    assert paths == [
        str(site.directory / "parts" / "zeo"),
        *(str(bin_ / name) for name in ("zeo", "zeopack", "repozo", "zeo-backup")),
    ]
    for name in site.scripts():
        assert os.access(bin_ / name, os.X_OK)
    own = site.directory / "parts" / "zeo"
    assert set(os.listdir(own / "bin")) == {"runzeo", "zeoctl"}
    assert set(os.listdir(own / "etc")) == {"zeo.conf", ".eggs"}
    assert os.listdir(site.directory / "parts") == ["zeo"]
    assert stat.S_IMODE(own.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        ({"zeopack": ""}, "zeopack"),
        ({"zeopack-script-name": ""}, "zeopack"),
        ({"repozo": ""}, "repozo"),
        ({"repozo-script-name": ""}, "repozo"),
        ({"backup-script-name": ""}, "zeo-backup"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_an_empty_value_is_no_script(site: Site, given: dict[str, str], gone: str) -> None:
    paths = site.recipe(**given).install()
    assert site.scripts() == {"zeo", "zeopack", "repozo", "zeo-backup"} - {gone}
    assert [Path(path).name for path in paths].count(gone) == 0


def test_names_of_scripts(site: Site) -> None:
    site.install(
        **{
            "zeopack-script-name": "pack-it",
            "repozo-script-name": "rz",
            "backup-script-name": "save",
        }
    )
    assert site.scripts() == {"zeo", "pack-it", "rz", "save"}


def test_scripts_of_files(site: Site) -> None:
    for name in ("mypack.py", "myrepozo.py"):
        site.write(f"tools/{name}", "def main():\n    return 3\n")
    site.install(zeopack="tools/mypack.py", repozo="tools/myrepozo.py")
    for script, name in (("zeopack", "mypack.py"), ("repozo", "myrepozo.py")):
        assert f"call({str(site.directory / 'tools' / name)!r})" in site.script(script)


def test_a_called_file_finds_what_lies_beside_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zeolith.recipe.running import call

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    site.write("beside_of_it.py", "value = 7\n")
    path = site.write("of_ones_own.py", "import beside_of_it\nmain = lambda: beside_of_it.value\n")
    assert call(str(path)) == 7
    assert "is no Python file" in call(str(site.write("something.txt", "")))


def test_the_password_is_in_a_file_of_its_owner_only(site: Site) -> None:
    site.write("users", "realm ZEO\n").chmod(0o600)
    given = {
        "authentication-database": "users",
        "pack-user": "packer",
        "pack-password": "top secret",
    }
    before = os.umask(0)
    try:
        site.install(**given)
    finally:
        os.umask(before)
    path = site.directory / "parts" / "zeo" / "etc" / "pack-password"
    assert path.read_text() == "top secret\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for file in site.directory.rglob("*"):
        if file.is_file() and file != path:
            assert "top secret" not in file.read_text()
    script = site.script("zeopack")
    assert "username='packer'" in script
    assert f"login_password_file={str(path)!r}" in script
    assert "realm='ZEO'" in script
    del given["pack-password"]
    own = site.write("password", "other\n")
    site.install(**given, **{"pack-password-file": "password"})
    assert not path.exists()
    assert f"login_password_file={str(own)!r}" in site.script("zeopack")


def test_eggs_and_paths(site: Site) -> None:
    site.working_set.append(SimpleNamespace(location="/somewhere/app.egg"))
    zope = site.directory / "zope2" / "lib" / "python"
    zope.mkdir(parents=True)
    site.install(
        eggs="app\nmore[extra]\n",
        **{
            "extra-paths": "lib/one\n/somewhere/two",
            "zope2-location": "zope2",
            "initialization": "import os\nos.environ['X'] = '1'",
        },
    )
    assert site.asked == ["app", "more[extra]", "zeolith"]
    for name in ("zeo", "zeopack", "repozo", "zeo-backup"):
        script = site.script(name)
        places = [
            script.index(repr(path))
            for path in (
                "/somewhere/app.egg",
                str(site.directory / "lib" / "one"),
                "/somewhere/two",
                str(zope),
            )
        ]
        assert places == sorted(places)
        assert ("os.environ['X'] = '1'" in script) is (name == "zeo")


def test_a_zope_without_modules_is_explained(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    (site.directory / "zope2").mkdir()
    with caplog.at_level(logging.INFO):
        site.install(**{"zope2-location": "zope2"})
    assert "has no lib/python: nothing of it is used" in caplog.text


def test_relative_paths(site: Site) -> None:
    text = site.install(**{"relative-paths": "true", "extra-paths": "lib"})
    assert str(site.directory) not in text
    assert "path $(ZEOLITH_BUILDOUT)/var/filestorage/Data.fs" in text
    for name in site.scripts():
        assert str(site.directory) not in site.script(name)
        assert "join(base, 'lib')" in site.script(name)
    assert "buildout=base" in site.script("zeo-backup")


def test_relative_paths_by_buildout_itself(site: Site) -> None:
    site.main["relative-paths"] = "true"
    assert str(site.directory) not in site.install()
    assert str(site.directory) in site.install(**{"relative-paths": "false"})


@pytest.mark.parametrize("option", ["bin-directory", "parts-directory"])
def test_relative_paths_from_elsewhere(site: Site, option: str) -> None:
    site.main[option] = "/somewhere/else"
    said = site.refused(**{"relative-paths": "true"})
    assert said.startswith("part zeo, option relative-paths: cannot be: the " + option)


@pytest.mark.parametrize("relative", ["true", "false"])
def test_two_parts_do_not_share_a_script(site: Site, relative: str) -> None:
    given = {"relative-paths": relative}
    site.recipe("one", **given).install()
    said = site.refused("two", **given)
    assert said.startswith("part two, option zeopack-script-name: ")
    assert "/bin/zeopack belongs to another part; choose another name" in said
    site.recipe("two", **given, **{"zeopack-script-name": "zeopack-two"}).install()
    assert "parts/one/" in site.script("zeopack")
    # What is the part's own, and what the old recipe left, is replaced.
    site.recipe("one", **given, **{"pack-days": "5"}).update()
    assert "days=5.0" in site.script("zeopack")
    site.write("bin/zeopack", "#!/usr/bin/python\nimport plone.recipe.zeoserver.pack\n")
    site.recipe("one", **given).update()
    assert "days=1.0" in site.script("zeopack")


@pytest.mark.parametrize("relative", ["true", "false"])
def test_a_configuration_whose_name_is_the_end_of_another(site: Site, relative: str) -> None:
    given = {"relative-paths": relative}
    site.recipe("one", **given).install()
    site.write("zeo.conf", "<zeo>\naddress 8200\n</zeo>\n<mappingstorage 1>\n</mappingstorage>\n")
    said = site.refused("two", **given, **{"zeo-conf": "zeo.conf"})
    assert "/bin/zeopack belongs to another part" in said


def test_a_script_of_before_the_move_is_the_parts_own(site: Site) -> None:
    site.install()
    text = site.script("zeopack").replace(str(site.directory), "/where/it/was")
    site.write("bin/zeopack", text)
    site.recipe(**{"pack-days": "5"}).update()
    assert "days=5.0" in site.script("zeopack")


def test_two_parts_have_two_sockets(site: Site) -> None:
    """One control script would stop the server of the other."""
    one = site.recipe("one", **{"zeo-address": "8101"})
    two = {"zeo-address": "8102", "zeopack-script-name": "pack-two"}
    said = site.refused("two", **two)
    assert said == (
        f"part two, option socket-name: {site.directory}/var/zeo.zdsock is that of the part one, "
        "too; give each part one of its own"
    )
    own = site.write(
        "own.conf", "<zeo>\naddress 1\n</zeo>\n<mappingstorage 1>\n</mappingstorage>\n"
    )
    site.install("three", **{"zeo-conf": str(own), "zeopack-script-name": "pack-three"})
    two = site.recipe("two", **two, **{"socket-name": "var/two.sock"})
    one.install()
    two.install()


def test_other_parts_can_refer_to_it(site: Site) -> None:
    recipe = site.recipe()
    options = recipe._options
    assert options["location"] == str(site.directory / "parts" / "zeo")
    assert options["bin-directory"] == str(site.directory / "bin")
    assert options["relative-paths"] == "false"


def test_an_update_does_nothing_when_nothing_has_changed(site: Site) -> None:
    recipe = site.recipe()
    paths = recipe.install()
    inode = (site.directory / "parts" / "zeo").stat().st_ino
    assert recipe.update() == paths
    assert (site.directory / "parts" / "zeo").stat().st_ino == inode


def test_an_update_follows_the_working_set(site: Site) -> None:
    recipe = site.recipe()
    recipe.install()
    site.working_set = [*site.working_set, SimpleNamespace(location="/somewhere/app.egg")]
    recipe.update()
    assert "/somewhere/app.egg" in site.script("zeo")


def test_an_update_follows_the_paths(site: Site) -> None:
    """A Zope 2 that another part has just installed has become one with modules."""
    (site.directory / "zope2").mkdir()
    site.install(**{"zope2-location": "zope2"})
    (site.directory / "zope2" / "lib" / "python").mkdir(parents=True)
    site.recipe(**{"zope2-location": "zope2"}).update()
    assert f"{site.directory}/zope2/lib/python" in site.script("zeo")


def test_the_scripts_name_the_directory_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    from zeolith.recipe import running

    found: list[Any] = []

    def run(arguments: Any, signals: Any, **options: Any) -> int:
        found.append((list(arguments), os.environ.get("ZEOLITH_BUILDOUT")))
        return 0

    monkeypatch.setattr(running, "main", run)
    monkeypatch.setattr(sys, "argv", ["script", "more"])
    monkeypatch.delenv("ZEOLITH_BUILDOUT", raising=False)
    assert running.control("a.conf") == 0
    assert found.pop() == (["ctl", "-C", "a.conf", "more"], None)
    calls: list[tuple[Callable[[], int], list[str]]] = [
        (lambda: running.control("a.conf", "/there"), ["ctl", "-C", "a.conf", "more"]),
        (lambda: running.serve("a.conf", "/there"), ["serve", "-C", "a.conf", "more"]),
        (lambda: running.pack("/there"), ["more"]),
        (lambda: running.backup("/there"), ["backup", "more"]),
    ]
    for call, arguments in calls:
        monkeypatch.setenv("ZEOLITH_BUILDOUT", "/elsewhere")
        assert call() == 0
        assert found.pop() == (arguments, "/there")


def test_an_update_follows_the_options(site: Site) -> None:
    site.install()
    site.recipe(**{"zeo-address": "8200"}).update()
    assert "address 8200" in site.conf()
    site.recipe(**{"zeo-address": "8200", "pack-days": "9"}).update()
    assert "days=9.0" in site.script("zeopack")


@pytest.mark.parametrize("name", ["bin/zeo", "parts/zeo/etc/zeo.conf", "parts/zeo/bin/runzeo"])
def test_an_update_brings_back_what_is_missing(site: Site, name: str) -> None:
    recipe = site.recipe()
    recipe.install()
    (site.directory / name).unlink()
    recipe.update()
    assert (site.directory / name).exists()


def test_an_update_brings_back_directories(site: Site) -> None:
    recipe = site.recipe()
    recipe.install()
    (site.directory / "var" / "log").rmdir()
    recipe.update()
    assert (site.directory / "var" / "log").is_dir()


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "again"])
def test_a_failure_in_the_middle_changes_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    from zc.buildout import easy_install

    if not is_first:
        site.install()
    before = {path: path.read_text() for path in site.directory.rglob("*") if path.is_file()}
    real = easy_install.scripts
    calls: list[Any] = []

    def fail(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 5:
            raise OSError(28, "No space left on device", "bin/script")
        return real(*arguments, **options)

    monkeypatch.setattr(easy_install, "scripts", fail)
    said = site.refused(**{"zeo-address": "8200"})
    assert said == (
        "part zeo, bin/script: cannot be written: No space left on device; correct its "
        "permissions, or make room on the disk"
    )
    after = {path: path.read_text() for path in site.directory.rglob("*") if path.is_file()}
    assert after == before


def test_a_failure_in_the_last_step_is_undone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install()
    before = {path: path.read_text() for path in site.directory.rglob("*") if path.is_file()}
    real = os.rename
    moved: list[str] = []

    def fail(source: Any, target: Any) -> None:
        if Path(target) == site.directory / "bin" / "repozo" and not moved:
            moved.append(str(target))
            raise OSError(1, "Operation not permitted", str(target))
        real(source, target)

    monkeypatch.setattr(os, "rename", fail)
    assert "Operation not permitted" in site.refused(**{"zeo-address": "8200"})
    after = {path: path.read_text() for path in site.directory.rglob("*") if path.is_file()}
    assert moved
    assert after == before


def test_an_interruption_leaves_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from zc.buildout import easy_install

    def interrupt(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(easy_install, "scripts", interrupt)
    before = site.files()
    with pytest.raises(KeyboardInterrupt):
        site.recipe().install()
    assert not site.files() ^ before


def test_distributions_that_cannot_be_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from zc.buildout import UserError

    def fail(*arguments: Any) -> Any:
        raise UserError("Couldn't find a distribution\nfor 'nothing'.\n")

    monkeypatch.setattr(site, "find", fail)
    assert site.refused(eggs="nothing") == (
        "part zeo, option eggs: Couldn't find a distribution for 'nothing'.; check names and "
        "versions"
    )


def test_what_names_no_distribution(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from zeolith.recipe.workingset import find_working_set

    site.main |= {"offline": "true", "eggs-directory": "eggs", "develop-eggs-directory": "develop"}
    monkeypatch.setattr(site, "find", find_working_set)
    said = site.refused(eggs="][")
    assert said.startswith("part zeo, option eggs: ")
    assert said.endswith("; check names and versions")


def test_directories_of_root_are_given_to_the_servers_user(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pwd

    given: list[tuple[str, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda path, uid, gid: given.append((str(path), uid)))
    site.directory.chmod(0o700)
    said = site.refused(**{"effective-user": "nobody"})
    assert f"option var: the user nobody may not enter {site.directory}; change" in said
    site.directory.chmod(0o755)
    site.install(**{"effective-user": "nobody"})
    uid = pwd.getpwnam("nobody").pw_uid
    assert (str(site.directory / "var" / "filestorage"), uid) in given
    assert all(str(site.directory / "parts") not in path for path, _ in given)


def test_windows_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert "does not work on Windows" in site.refused()


def test_the_scripts_need_no_buildout() -> None:
    from tests.support.processes import run_python

    said = run_python(
        "import sys, zeolith.recipe.running\n"
        "print([name for name in sys.modules if name.startswith(('zc.buildout', 'pkg_'))])"
    )
    assert said == "[]\n"
