"""``zeolith init``."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zeolith.admin.instance import DIRECTORIES, FILES, Instance, make_instance
from zeolith.cli.main import main
from zeolith.config.server import load_server_config
from zeolith.errors import ConfigurationError

ETC = [f"etc/{name}" for name in FILES]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A path short enough for sockets, of nothing that exists."""
    root = Path(f"/tmp/zinit-{os.getpid()}")
    yield root
    shutil.rmtree(root, ignore_errors=True)


def contents(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def test_the_configuration_is_valid_and_means_what_was_asked(root: Path) -> None:
    make_instance(Instance(directory=root, address="[::1]:8123", storage="main"))
    config = load_server_config(root / "etc" / "zeo.conf")
    assert config.address == ("::1", 8123)
    assert [opener.name for opener in config.storages] == ["main"]
    assert config.pid_file == f"{root}/var/zeo.pid"
    assert config.runner.socket_name == f"{root}/var/zeo.zdsock"
    assert config.runner.user is None
    assert config.tls is None


def test_each_key_that_is_commented_out_is_valid(root: Path) -> None:
    make_instance(Instance(directory=root))
    conf = root / "etc" / "zeo.conf"
    lines = conf.read_text().splitlines()
    keys: tuple[str, ...] = (
        "transaction-timeout",
        "invalidation-queue-size",
        "read-only",
        "formatter",
    )
    for number, line in enumerate(lines):
        content = line.strip().removeprefix("# ")
        if line.strip().startswith("#") and content.partition(" ")[0] in keys:
            lines[number] = content
            keys = tuple(key for key in keys if key != content.partition(" ")[0])
    assert keys == ()
    conf.write_text("\n".join(lines))
    assert load_server_config(conf).transaction_timeout == 30


def test_rotation_by_size_is_valid_too(root: Path) -> None:
    make_instance(Instance(directory=root))
    conf = root / "etc" / "zeo.conf"
    text = conf.read_text()
    assert "# max-size" in text
    conf.write_text(text.replace("# max-size", "max-size").replace("# old-files", "old-files"))
    factory = load_server_config(conf).eventlog.handler_factories[0]
    assert factory.section.max_size == 50 * 1024 * 1024


def test_directories_have_their_permissions_whatever_the_umask(root: Path) -> None:
    before = os.umask(0o077)
    try:
        made = make_instance(Instance(directory=root))
    finally:
        os.umask(before)
    for name, mode in {"": 0o755, **DIRECTORIES}.items():
        assert stat.S_IMODE((root / name).stat().st_mode) == mode, name
    assert set(made.created) == {root, *(root / name for name in [*DIRECTORIES, *ETC])}


def test_a_directory_that_is_not_empty_is_left_alone(root: Path) -> None:
    root.mkdir()
    (root / "something").write_text("precious")
    with pytest.raises(ConfigurationError, match=r"is not empty.*--add"):
        make_instance(Instance(directory=root))
    assert contents(root) == {"something": b"precious"}


def test_nothing_is_ever_overwritten(root: Path) -> None:
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "zeo.conf").write_text("mine")
    (root / "etc").chmod(0o700)
    made = make_instance(Instance(directory=root), add_to_existing=True)
    assert (root / "etc" / "zeo.conf").read_text() == "mine"
    assert stat.S_IMODE((root / "etc").stat().st_mode) == 0o700
    assert set(made.kept) == {root, root / "etc", root / "etc" / "zeo.conf"}
    before = contents(root)
    again = make_instance(Instance(directory=root, address="8200"), add_to_existing=True)
    assert again.created == []
    assert contents(root) == before


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        ("a b", {}, "has a blank or a special character"),
        ("a$b", {}, "has a blank or a special character"),
        ("a%b", {}, "has a blank or a special character"),
        ("x" * 100, {}, "is too long"),
        ("fine", {"address": "nowhere"}, "'nowhere' has no port"),
        ("fine", {"address": "/run/a\nb"}, "blanks"),
        ("fine", {"storage": "Main"}, "small letters"),
        ("fine", {"storage": "a b"}, "small letters"),
        ("fine", {"user": "nobody-of-that-name"}, "no user 'nobody-of-that-name'"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_made(
    root: Path, name: str, values: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        make_instance(Instance(directory=root / name, **values))
    assert not root.exists()


def test_the_unit_runs_this_python_and_ends_for_good_with_status_2(root: Path) -> None:
    make_instance(Instance(directory=root))
    unit = (root / "etc" / "zeolith.service").read_text()
    assert f"\nExecStart={sys.executable} -P -m zeolith serve -C {root}/etc/zeo.conf\n" in unit
    for line in ("Type=notify", "Restart=on-failure", "RestartPreventExitStatus=2"):
        assert f"\n{line}\n" in unit
    for name in ("var", "log", "backups"):
        assert f"{root}/{name}" in unit.split("ReadWritePaths=")[1].split("\n")[0].split()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_accepts_the_unit(root: Path) -> None:
    make_instance(Instance(directory=root))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(root / "etc" / "zeolith.service")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # It also complains of units of this machine.
    assert str(root) not in done.stdout + done.stderr


def test_logrotate_signals_the_process_in_the_pid_file(root: Path) -> None:
    """The postrotate script is run as logrotate would."""
    make_instance(Instance(directory=root))
    rules = (root / "etc" / "logrotate.conf").read_text()
    assert f"\n{root}/log/zeo.log {{\n" in rules
    script = rules.split("postrotate\n")[1].split("endscript")[0]
    subprocess.run(["sh", "-e", "-c", script], check=True, timeout=60)  # no server: no harm
    (root / "var").mkdir(exist_ok=True)
    told = root / "told"
    shell = f"trap 'touch {told}; exit' USR2; echo up; while :; do read -t 1 x; done"
    with subprocess.Popen(
        ["bash", "-c", shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            (root / "var" / "zeo.pid").write_text(f"{process.pid}\n")
            subprocess.run(["sh", "-e", "-c", script], check=True, timeout=60)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert told.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_root_gives_the_directories_to_the_user(root: Path) -> None:
    make_instance(Instance(directory=root, user="nobody"))
    for name in ("var", "var/blobs", "log", "backups"):
        assert (root / name).owner() == "nobody", name
    for name in ("", "etc", *ETC):
        assert (root / name).owner() == "root", name  # the server must not change its own rules
    assert load_server_config(root / "etc" / "zeo.conf").runner.user == "nobody"
    assert "\nUser=nobody\n" in (root / "etc" / "zeolith.service").read_text()
    assert "\n    su nobody " in (root / "etc" / "logrotate.conf").read_text()


def test_no_placeholder_is_left(root: Path) -> None:
    make_instance(Instance(directory=root))
    for name in ETC:
        assert "@{" not in (root / name).read_text()


def test_the_command_says_what_to_do_next(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(root)]) == 0
    said = capsys.readouterr().out
    assert f"created {root}/etc/zeo.conf" in said
    assert f"zeolith ctl -C {root}/etc/zeo.conf start" in said
    assert main(["init", str(root)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["init", "--add", str(root)]) == 0
    assert f"kept    {root}/etc/zeo.conf" in capsys.readouterr().out


def test_a_disk_that_refuses_is_a_failure_at_run_time(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root.mkdir()
    (root / "var").write_text("a file where a directory should be")
    assert main(["init", "--add", str(root)]) == 1
    assert f"{root}/var" in capsys.readouterr().err
