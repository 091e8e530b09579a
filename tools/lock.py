"""Write the lock files in ``requirements/`` from ``pyproject.toml``.

``run.txt`` is what ``make run`` installs; ``dev.txt`` adds what the tests and the checks need, and
``zope.txt`` adds Zope instead, for the processes that tests start.
Every version is exact and every file has its hash, over all platforms, so one lock serves Python
3.11 to 3.14.  No address of an index gets in: each machine uses its own.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Made by `make lock` from pyproject.toml; changes by hand get lost.\n"


def lock(name: str, requirements: list[str]) -> None:
    """Write ``requirements/<name>``."""
    target = ROOT / "requirements" / name
    command = [
        *(sys.executable, "-m", "piptools", "compile", "--quiet", "--generate-hashes"),
        *("--allow-unsafe", "--strip-extras", "--no-header", "--no-annotate"),
        *("--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host"),
        *("--no-emit-options", "--output-file", str(target), *sys.argv[1:], "-"),
    ]
    subprocess.run(command, input="\n".join(requirements), text=True, check=True, cwd=ROOT)
    lines = target.read_text(encoding="utf-8").splitlines(keepends=True)
    # pip-compile warns of locking setuptools; what builds the package is to be locked too.
    kept = [line for line in lines if line.strip() and not line.startswith("#")]
    target.write_text(HEADER + "".join(kept), encoding="utf-8")


def main() -> None:
    """Write the lock files; arguments are handed to pip-compile, for instance ``--upgrade``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = project["dependency-groups"]
    run = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["uvloop"],
        *project["build-system"]["requires"],
    ]
    lock("run.txt", run)
    lock(
        "dev.txt", [*run, f"-c {ROOT / 'requirements/run.txt'}", *groups["test"], *groups["check"]]
    )
    lock("zope.txt", [*run, f"-c {ROOT / 'requirements/run.txt'}", *groups["zope"]])


if __name__ == "__main__":
    main()
