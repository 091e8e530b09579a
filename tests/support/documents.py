"""Reading the documents."""

from __future__ import annotations

import re
from pathlib import Path


def table_keys(path: Path) -> set[str]:
    """Return what stands in backquotes in the first column of the tables in *path*."""
    rows = re.findall(r"^\| (`.*?) \|", path.read_text(), re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}
