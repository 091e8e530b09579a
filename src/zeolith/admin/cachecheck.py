"""What ``zeolith cache check`` does with one file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

from ..cache.checking import Damage, Findings, check, fix
from ..cache.inspection import count, look
from .tables import printable, size

Progress: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Called with a label and the bytes there are; the context is told of bytes that are done."""


@dataclass(frozen=True)
class CheckedCache:
    """A cache file after its check.

    :ivar findings: what was found.
    :ivar damages: the first of what is damaged, one line each.
    :ivar is_fixed: whether it is left out of the index now.
    """

    findings: Findings
    damages: list[str]
    is_fixed: bool

    @property
    def is_clean(self) -> bool:
        """Whether nothing was wrong."""
        return self.findings.is_clean

    @property
    def left_out(self) -> int:
        """How many damaged revisions are not in ``damages``."""
        return self.findings.damaged - (len(self.damages) - len(self.findings.faults))

    def summary(self) -> str:
        """Return the result in one line."""
        found = self.findings
        path = printable(found.files.path)
        records = (
            f"{found.current} current and {found.earlier} earlier records, {size(found.bytes_read)}"
        )
        if found.files.snapshot is None:
            result = "empty" if self.is_clean else "EMPTIED" if self.is_fixed else "NOT USABLE"
            return f"{path}: {result}"
        if self.is_clean:
            return f"{path}: {records}: good"
        result = f"{found.damaged} DAMAGED" if found.damaged else "MISCOUNTED"
        return f"{path}: {records}: {result}" + (", fixed" if self.is_fixed else "")


def check_cache(path: str, progress: Progress, *, mend: bool, most: int | None) -> CheckedCache:
    """Check the cache file *path*.

    :param mend: leave out of the index what is damaged.
    :param most: lines in ``damages`` about records at most; None: all.
    :raises CacheInUse: a process uses it.
    :raises ForeignFile: it is no cache file of ours.
    :raises OSError: it cannot be read, or not be mended.
    """
    files = look(path)
    damages: list[str] = []

    def report(damage: Damage) -> None:
        if most is None or len(damages) < most:
            damages.append(_describe(damage))

    used = 0 if files.snapshot is None else count(files.snapshot).bytes_used
    with progress(files.path, used) as advance:
        findings = check(files, report, advance)
    damages += findings.faults
    is_fixed = mend and not findings.is_clean
    if is_fixed:
        fix(findings)
    return CheckedCache(findings, damages, is_fixed)


def _describe(damage: Damage) -> str:
    which = "an earlier" if damage.is_earlier else "the current"
    return (
        f"{which} revision of object {damage.oid.hex()}, at byte {damage.offset}: {damage.problem}"
    )
