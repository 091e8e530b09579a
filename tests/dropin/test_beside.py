"""``zeolith-zeo`` refuses to be imported beside PyPI's ZEO, whichever was installed first."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
from tests.support.sites import DROPIN, Site

ZODB_CONFIG = "import ZODB.config; ZODB.config.storageFromString({!r})"
ZEOCLIENT = ZODB_CONFIG.format("<zeoclient>\nserver localhost:1\nwait off\n</zeoclient>")
CLIENTSTORAGE = ZODB_CONFIG.format(
    "%import ZEO\n<clientstorage>\nserver localhost:1\n</clientstorage>"
)


@pytest.fixture(scope="module")
def ours_last(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("ours-last"))
    site.install_zeo()
    site.install_dropin()
    return site


@pytest.fixture(scope="module")
def theirs_last(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("theirs-last"))
    site.install_dropin()
    site.install_zeo()
    return site


def refusal(site: Site, program: str, cwd: Path) -> str:
    """Return the last line that *program* ends with."""
    done = site.run("-c", program, cwd=cwd, status=1)
    return done.stderr.strip().splitlines()[-1]


BOTH = (
    "ImportError: ZEO 6.2 and zeolith-zeo are both installed, and have replaced files of each "
    "other. Remove both and install one: pip uninstall -y ZEO zeolith-zeo, and then either"
)


def test_alone(dropin: Site, tmp_path: Path) -> None:
    done = dropin.run("-c", "import ZEO; print(ZEO.is_zeolith)", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("program", ["import ZEO", "import ZEO.ClientStorage", ZEOCLIENT])
def test_installed_over_zeo(ours_last: Site, tmp_path: Path, program: str) -> None:
    assert refusal(ours_last, program, tmp_path).startswith(BOTH)


@pytest.mark.parametrize(
    "program",
    [
        "import ZEO.ClientStorage",
        "import ZEO.Exceptions",
        "import ZEO.interfaces",
        "import ZEO.StorageServer",
        "import ZEO; ZEO.client(1)",
        "import ZEO; ZEO.DB(1)",
        "from ZEO import runzeo; runzeo.main(['-a', '127.0.0.1:1', '-f', 'Data.fs'])",
        "import runpy; runpy.run_module('ZEO.runzeo', run_name='__main__')",
        ZEOCLIENT,
        CLIENTSTORAGE,
    ],
)
def test_zeo_installed_over_it(theirs_last: Site, tmp_path: Path, program: str) -> None:
    """Nothing of ZEO's that needs a server or is one gets as far as opening anything."""
    assert BOTH in "ImportError: " + refusal(theirs_last, program, tmp_path).partition(": ")[2]
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_when_zeo_was_removed_again(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.install_dropin()
    site.install_zeo()
    site.remove("[zZ][eE][oO]", Path(sysconfig.get_paths()["purelib"]))
    assert not (site.packages / "ZEO" / "__init__.py").exists()
    for program in ("from ZEO.Exceptions import ClientDisconnected", ZEOCLIENT):
        said = refusal(site, program, tmp_path)
        assert said.startswith("ImportError: files of zeolith-zeo are missing")
        assert "pip install zeolith-zeo" in said
    # As the message says: both are removed, and one is installed again.
    site.remove("zeolith_zeo", DROPIN / "src")
    site.install_dropin()
    site.run("-c", "from ZEO.Exceptions import ClientDisconnected", cwd=tmp_path)


def test_the_empty_distribution_that_stands_for_zeo(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.install_dropin()
    site.install_metadata(DROPIN / "standin" / "pyproject.toml")
    done = site.run(
        "-c",
        "import ZEO, importlib.metadata; print(ZEO.is_zeolith, importlib.metadata.version('ZEO'))",
        cwd=tmp_path,
    )
    assert done.stdout == "True 6.2+zeolith\n"


def test_elsewhere_on_the_path(dropin: Site, tmp_path: Path) -> None:
    """As buildout has it: each distribution in a directory of its own."""
    (tmp_path / "ZEO-6.2.dist-info").mkdir()
    (tmp_path / "ZEO-6.2.dist-info" / "METADATA").write_text("Name: ZEO\nVersion: 6.2\n")
    program = f"import sys; sys.path.append({str(tmp_path)!r}); import ZEO"
    assert refusal(dropin, program, tmp_path).startswith(BOTH)


USE = """
import ZEO, ZODB.blob
address, stop = ZEO.server('Data.fs', 'server-blobs')
db = ZEO.DB(address, blob_dir='blobs', client='kept')
with db.transaction() as connection:
    root = connection.root()
    root['visits'] = root.get('visits', 0) + 1
    root[root['visits']] = ZODB.blob.Blob(b'%d' % root['visits'])
    print(root['visits'], hasattr(ZEO, 'is_zeolith'))
with db.transaction() as connection:
    root = connection.root()
    for number in range(1, root['visits'] + 1):
        assert root[number].open().read() == b'%d' % number
db.close()
stop()
"""


def test_there_and_back(tmp_path: Path) -> None:
    """The document: try it and go back.  The same program, database, blobs and cache's name."""
    theirs = Path(sysconfig.get_paths()["purelib"])
    site = Site(tmp_path / "site")
    printed = []
    for install, name, source in (
        (site.install_zeo, "[zZ][eE][oO]", theirs),
        (site.install_dropin, "zeolith_zeo", DROPIN / "src"),
        (site.install_zeo, "[zZ][eE][oO]", theirs),
        (site.install_dropin, "zeolith_zeo", DROPIN / "src"),
    ):
        install()
        printed.append(site.run("-c", USE, cwd=tmp_path).stdout.strip())
        site.remove(name, source)
    assert printed == ["1 False", "2 True", "3 False", "4 True"]
