"""What the documents promise: examples run, links lead somewhere, tables match the code."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

import zeolith

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    """Return the code blocks in *language*, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.M | re.S)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def run_python(script: str, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_readmes_example_runs(tmp_path: Path) -> None:
    (commands,) = [block for block in blocks(ROOT / "README.md", "sh") if "zeolith serve" in block]
    (script,) = [block for block in blocks(ROOT / "README.md", "python") if "visit" in block]
    mkdir, serve = (shlex.split(line) for line in commands.splitlines())
    assert mkdir[:2] == ["mkdir", "-p"]
    (tmp_path / mkdir[2]).mkdir(parents=True)
    assert serve[:2] == ["zeolith", "serve"]
    # Another server may be running on the example's port.
    arguments = ["0" if argument == "8100" else argument for argument in serve[1:]]
    assert "0" in arguments
    with subprocess.Popen(
        [sys.executable, "-m", "zeolith", *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            found = re.search(r" at 127\.0\.0\.1:(\d+);", line)
            assert found is not None, line
            assert "8100" in script
            script = script.replace("8100", found[1])
            for number in (1, 2):
                assert run_python(script, tmp_path) == f"This is visit number {number}\n"
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 0
        finally:
            server.kill()
    assert (tmp_path / "var" / "Data.fs").exists()
    assert (tmp_path / "var" / "blobs").is_dir()


def test_the_readmes_experiment_runs(tmp_path: Path) -> None:
    (script,) = [b for b in blocks(ROOT / "README.md", "python") if "zeolith.server" in b]
    assert run_python(script, tmp_path) == "{}\n"


def test_the_client_s_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    from persistent.mapping import PersistentMapping
    from ZODB.MappingStorage import MappingStorage

    from tests.support.processes import running_server

    scripts = blocks(ROOT / "docs" / "client.md", "python")
    (fetching,) = [script for script in scripts if "prefetch" in script]
    (reading,) = [script for script in scripts if "sync_to" in script]
    with running_server(MappingStorage()) as server:
        db, other = zeolith.DB(server.address), zeolith.DB(server.address)
        with db.transaction() as connection:
            folder = connection.root()["folder"] = PersistentMapping()
            for number in range(3):
                folder[number] = PersistentMapping()
                folder[number].title = "an item"
        other.storage.sync_to(db.storage.lastTransaction())
        exec(fetching, {"db": other})
        exec(reading, {"db": db, "other": other})
        db.close()
        other.close()
    assert capsys.readouterr().out == "an item\n" * 3 + "42\n"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", document.read_text())
    for link in links:
        assert (document.parent / link).exists(), link


def test_the_configuration_in_the_documents_is_read(tmp_path: Path) -> None:
    from zeolith.config.server import parse_server_config

    text = blocks(ROOT / "docs" / "configuration.md", "apacheconf")[0]
    (tmp_path / "var").mkdir()
    config = parse_server_config(text.replace("/srv/app/var", str(tmp_path / "var")))
    assert config.address == ("127.0.0.1", 8100)
    assert config.transaction_timeout == 60


def test_every_option_is_documented() -> None:
    from zeolith.cli.commands.serve import serve

    text = (ROOT / "docs" / "server.md").read_text()
    table = text.partition("\n## Command line\n")[2].partition("\n## ")[0]
    assert "| `NAME=VALUE` |" in table
    for parameter in serve.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            for option in parameter.opts:
                assert f"`{option}`" in table, option


def test_every_option_of_start_is_one_of_serve_or_in_the_table() -> None:
    from zeolith.cli.commands.serve import serve
    from zeolith.cli.start import start

    common = {option for parameter in serve.params for option in parameter.opts}
    text = (ROOT / "docs" / "server.md").read_text()
    table = text.partition("\n## start.py and runzeo\n")[2].partition("\n## ")[0]
    for parameter in start.params:
        for option in parameter.opts if isinstance(parameter, click.Option) else ():
            assert option in common or f"| `{option}` |" in table, option
    assert "| `-h` |" in table


@pytest.mark.parametrize("name", ["status", "nagios", "kick"])
def test_every_option_for_looking_is_documented(name: str) -> None:
    from zeolith.cli.group import zeolith as group

    text = (ROOT / "docs" / "status.md").read_text()
    chapters = [text.partition(f"\n## {title}\n")[2] for title in ("TLS", "Logging in")]
    common = "".join(chapter.partition("\n## ")[0] for chapter in chapters)
    section = common + text.partition(f"\n## zeolith {name}\n")[2].partition("\n## ")[0]
    command = group.get_command(click.Context(group), name)
    assert command is not None
    assert len(command.params) > 5
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            assert f"| `{parameter.human_readable_name}` |" in section
        for option in parameter.opts if isinstance(parameter, click.Option) else ():
            assert f"`{option}`" in section, option


def test_every_option_of_wire_is_documented() -> None:
    from zeolith.cli.commands.wire import wire

    text = (ROOT / "docs" / "wire.md").read_text()
    documented = set(re.findall(r"^\| `(\S+?)[ `]", text, re.M))
    expected = {option for each in wire.params[1:] for option in each.opts}
    assert documented == expected | {"ADDRESS"}
    (example,) = blocks(ROOT / "docs" / "wire.md", "text")
    first, *lines = example.splitlines()
    assert first == "127.0.0.1:8200 passes on to 127.0.0.1:8100; Ctrl-C ends it"
    at = next(number for number, line in enumerate(lines) if line.startswith("method "))
    for line in lines[:at]:
        assert re.fullmatch(r"[\d:.]{15}   1 (-- \w+|(->|<-) .* \[\d+\])", line), line
    assert any("Loaded(oid=0x2a, tid=0x" in line for line in lines[:at])


@pytest.mark.parametrize("name", ["backup", "restore", "verify"])
def test_every_option_for_backups_is_documented(name: str) -> None:
    from zeolith.cli.group import zeolith as group

    text = (ROOT / "docs" / "backup.md").read_text()
    section = text.partition(f"\n## zeolith {name}\n")[2].partition("\n## ")[0]
    command = group.get_command(click.Context(group), name)
    assert command is not None
    assert len(command.params) > 5
    documented = set(re.findall(r"^\| (`-.*?`) \|", section, re.M))
    assert documented == {
        ", ".join(f"`{option}`" for option in parameter.opts) for parameter in command.params
    }


def test_every_option_of_pack_is_documented() -> None:
    from zeolith.cli.commands.pack import pack

    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.partition("\n## Packing\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `-")]
    documented = set(re.findall(r"`(-.*?)`", " ".join(rows)))
    options = {
        option
        for parameter in pack.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }
    assert len(options) > 15
    assert documented == options


@pytest.mark.parametrize("name", ["ctl", "init"])
def test_every_option_for_running_is_documented(name: str) -> None:
    from zeolith.cli.group import zeolith as group

    text = (ROOT / "docs" / "operations.md").read_text()
    command = group.get_command(click.Context(group), name)
    assert command is not None
    options = [
        option
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for option in parameter.opts
    ]
    assert len(options) > 5
    for option in options:
        assert f"`{option}`" in text, option


def test_every_action_and_every_key_of_the_runner_is_documented() -> None:
    from zeolith.admin.actions import ACTIONS

    text = (ROOT / "docs" / "operations.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    first_cells = " ".join(line.split("|")[1] for line in rows)
    schema = (ROOT / "src" / "zeolith" / "config" / "runner.xml").read_text()
    keys = re.findall(r'<key name="([a-z-]+)"', schema)
    assert len(keys) > 15
    for name in [*ACTIONS, "help", *keys]:
        assert f"`{name}`" in first_cells, name


def test_the_configurations_for_running_are_read(tmp_path: Path) -> None:
    from zeolith.config.server import parse_server_config

    sections = blocks(ROOT / "docs" / "operations.md", "apacheconf")
    assert len(sections) == 3
    (tmp_path / "var").mkdir()
    for section in sections:
        text = "<zeo>\naddress 8100\n</zeo>\n<mappingstorage>\n</mappingstorage>\n" + section
        parse_server_config(text.replace("/srv/zeo", str(tmp_path)))


def test_every_option_for_checking_is_documented() -> None:
    from zeolith.cli.commands.check_config import check_config

    text = (ROOT / "docs" / "configuration.md").read_text()
    for parameter in check_config.params:
        for option in parameter.opts:
            if option.startswith("-"):
                assert f"`{option}`" in text, option


def test_every_dependency_has_its_reason() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    requirements = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(name for names in project["project"]["optional-dependencies"].values() for name in names),
        *(name for names in groups.values() for name in names),
    ]
    text = (ROOT / "docs" / "dependencies.md").read_text()
    locked = "".join((ROOT / "requirements" / name).read_text() for name in ("dev.txt", "zope.txt"))
    for requirement in requirements:
        found = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert found is not None
        assert found[0] in text, found[0]
        assert re.search(rf"^{re.sub('[._]', '-', found[0].lower())}==", locked, re.M), found[0]


@pytest.mark.parametrize("name", ["run.txt", "dev.txt", "zope.txt"])
def test_lock_files_are_exact_and_name_no_place(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert not re.search(r"https?:|file:|--index|--find-links|--extra|^-|/", text, re.M)
    entries = re.split(r"^(?=[a-z])", re.sub(r"^#.*\n", "", text, flags=re.M), flags=re.M)[1:]
    assert len(entries) > 10
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==[\w.]+ (; .*)?\\\n", entry), entry
        assert "--hash=sha256:" in entry


@pytest.mark.parametrize("other", ["dev.txt", "zope.txt"])
def test_one_lock_holds_for_all(other: str) -> None:
    pins = [
        set(re.findall(r"^([a-z0-9-]+==\S+)", (ROOT / "requirements" / name).read_text(), re.M))
        for name in ("run.txt", other)
    ]
    assert pins[0] < pins[1]


def test_the_tests_that_catch_a_fault_exist() -> None:
    """One that was renamed or taken out leaves a rule that nobody may be looking after."""
    text = (ROOT / "docs" / "testing.md").read_text("utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    found = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in (path.stem, *re.findall(r"\b(?:def|class) (test_\w+)", path.read_text("utf-8")))
    }
    assert named
    assert named - found == set()
