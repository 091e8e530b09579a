"""Which backups may go.

A full backup and the incremental ones that continue it go together, or stay together: none of
them is of use without those before it.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .failures import translated
from .manifest import Manifest
from .report import Report
from .repository import Chain, Repository

_DAY = 86400


@dataclass(frozen=True)
class Retention:
    """What is to be kept; what either of the two keeps, stays.

    :ivar chains: so many full backups with what continues them, the newest; at least 1.
    :ivar days: those of which any backup is younger than this.
    """

    chains: int | None = None
    days: float | None = None

    def choose(self, chains: Sequence[Chain], now: float) -> list[Chain]:
        """Return the chains that may go; the newest is never among them.

        :param chains: all there are, oldest first.
        :param now: the time, in seconds since 1970.
        """
        if self.chains is None and self.days is None:
            return []
        kept = max(self.chains or 1, 1)
        candidates = chains[:-kept]
        if self.days is None:
            return list(candidates)
        limit = now - self.days * _DAY
        return [chain for chain in candidates if made_at(chain[-1]) < limit]


def made_at(manifest: Manifest) -> float:
    """Return when a backup was made, in seconds since 1970."""
    return calendar.timegm(time.strptime(manifest.name, "%Y-%m-%d-%H-%M-%S"))


def apply_retention(
    repository: Repository, retention: Retention, report: Report, *, dry_run: bool = False
) -> None:
    """Remove the backups that may go, and the blobs that nobody else needs.

    The repository must be locked unless *dry_run* is set: then it is only said what would go.
    """
    with translated("removing old backups", "the newer backups are as they were"):
        chosen = retention.choose(repository.read_chains(), time.time())
        for chain in chosen:
            text = f"full backup {chain[0].name}" + (
                f" with {len(chain) - 1} incremental, up to {chain[-1].name}"
                if len(chain) > 1
                else ""
            )
            if dry_run:
                report.line(f"would remove the {text}")
            else:
                report.line(f"removing the {text}")
                repository.remove(chain)
        if dry_run and not chosen:
            report.line("there is nothing to remove")
        if chosen and not dry_run:
            count, size = repository.sweep_blobs()
            report.line(f"removed {count} blobs that no other backup needs, {size} bytes")
