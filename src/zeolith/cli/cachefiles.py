"""What the commands about cache files have in common."""

from __future__ import annotations

import os


def describe(path: str, error: Exception) -> str:
    """Return what is wrong with the cache *path*: which of its files, and what."""
    if not isinstance(error, OSError):
        return str(error)
    name = error.filename2 or error.filename
    if not isinstance(name, str) or name == os.path.abspath(path):
        name = path
    return f"{name}: {error.strerror}"
