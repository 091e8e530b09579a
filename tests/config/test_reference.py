"""The reference of ``zeo.conf`` is complete, and what it shows can be read."""

from __future__ import annotations

import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import trustme
import ZConfig
import ZODB.config
from tests.support.processes import child_environment

from zeolith.config.client import Client
from zeolith.config.server import parse_server_config, server_schema

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```apacheconf\n(.*?)^```$", TEXT, re.M | re.S)
STORAGES = re.compile(r"^<(\w*storage|tieredblobs|zeoclient|zeolith)\b", re.M)


def test_it_is_what_the_schema_says() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.reference", "--check"],
        cwd=ROOT,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def chapters() -> dict[str, str]:
    """Return the text about each section."""
    parts = re.split(r"^## &lt;(.+)&gt;$", TEXT, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


@pytest.mark.parametrize(
    "section",
    [
        *("zeo", "ssl", "runner", "eventlog", "logfile", "filestorage", "mappingstorage"),
        *("demostorage", "blobstorage", "zeoclient", "zeolith"),
    ],
)
def test_every_key_is_there(section: str) -> None:
    chapter = chapters()[section]
    keys = [key for key, info in server_schema().gettype(section) if not info.issection()]
    assert keys
    for key in keys:
        assert f"| `{key}` | " in chapter, key


def test_no_text_is_taken_from_others() -> None:
    """What ZODB and ZConfig say of their keys is theirs."""
    words = " ".join(TEXT.split())
    for section in ("filestorage", "zeoclient", "logfile", "eventlog", "demostorage"):
        for _, info in server_schema().gettype(section):
            text = " ".join((info.description or "").split())
            assert not text or text not in words


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split("\n", 1)[0])
def test_every_example_is_read(example: str, tmp_path: Path) -> None:
    if "zodb_db" in example:  # of an application, whose schema has that section
        example = re.sub(r"mount-point .*", "", example.replace("zodb_db", "zodb"))
        values, _ = ZConfig.loadConfigFile(ZODB.config.getDbSchema(), StringIO(example))
        assert isinstance(values.database[0].config.storage, Client)
        return
    for name in ("var", "log"):
        (tmp_path / name).mkdir()
    ca = trustme.CA()
    issued = ca.issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    ca.cert_pem.write_to_path(tmp_path / "clients.pem")
    example = example.replace("/srv/app", str(tmp_path)).replace("/etc/zeolith", str(tmp_path))
    if "<zeo>" not in example:
        example = f"<zeo>\naddress 8100\n</zeo>\n{example}"
    if not STORAGES.search(example):
        example += "<mappingstorage>\n</mappingstorage>\n"
    parse_server_config(example)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 10
