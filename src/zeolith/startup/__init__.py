"""Applications that start: who creates what is in an empty database, and who waits for that."""

from __future__ import annotations

from .first import FirstStart

__all__ = ["FirstStart"]
