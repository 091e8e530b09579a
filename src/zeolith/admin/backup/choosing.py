"""Which backup to restore: that of a date, or the one that has a transaction."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import ConfigurationError
from ...types import Tid
from .manifest import Manifest
from .repository import Chain

_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[-T ](\d\d)(?:[-:](\d\d)(?:[-:](\d\d))?)?)?Z?")


@dataclass(frozen=True)
class Choice:
    """What to restore.

    :ivar chain: the backups it takes, in order.
    :ivar until: transactions after this one are left out; None: none are.
    """

    chain: Chain
    until: Tid | None = None

    @property
    def last(self) -> Manifest:
        return self.chain[-1]


def parse_date(text: str, option: str) -> str:
    """Return a date and time (UTC) as the names of backups are written.

    :param text: ``yyyy-mm-dd[-hh[-mm[-ss]]]``; ``yyyy-mm-ddThh:mm:ss`` will do as well.
    :raises ConfigurationError: it is no date.
    """
    found = _DATE.fullmatch(text.strip())
    if found is not None:
        name = "-".join(part or "00" for part in found.groups())
        try:
            time.strptime(name, "%Y-%m-%d-%H-%M-%S")
        except ValueError:
            pass
        else:
            return name
    raise ConfigurationError(
        option, f"{text!r} is no date", "write it as yyyy-mm-dd[-hh[-mm[-ss]]], in UTC"
    )


def parse_tid(text: str, option: str) -> Tid:
    """Return a transaction id that is written in hexadecimal.

    :raises ConfigurationError: it is none.
    """
    digits = text.strip().lower().removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]{16}", digits):
        raise ConfigurationError(
            option, f"{text!r} is no transaction id", "write its 16 hexadecimal digits"
        )
    return Tid(bytes.fromhex(digits))


def tid_of_date(name: str) -> Tid:
    """Return the tid that a transaction of this very moment would have."""
    from persistent.TimeStamp import TimeStamp

    year, month, day, hour, minute, second = map(int, name.split("-"))
    return Tid(TimeStamp(year, month, day, hour, minute, second).raw())


def choose_newest(chains: Sequence[Chain]) -> Choice:
    """Return the newest backup."""
    return Choice(chains[-1])


def choose_by_date(chains: Sequence[Chain], date: str) -> Choice:
    """Return the newest backup that had been made at a date.

    :raises ConfigurationError: there was none yet.
    """
    for chain in reversed(chains):
        made = [manifest for manifest in chain if manifest.name <= date]
        if made:
            return Choice(made)
    raise ConfigurationError(
        f"date {date}", f"is before the first backup, {chains[0][0].name}", "choose a later one"
    )


def choose_by_tid(chains: Sequence[Chain], tid: Tid) -> Choice:
    """Return what gives the state just after a transaction, or after the last one before it.

    :raises ConfigurationError: no backup has that state.
    """
    option = f"transaction 0x{tid.hex()}"
    reaching = [chain for chain in chains if chain[-1].last >= tid]
    if not reaching:
        newest = max(
            (manifest for chain in chains for manifest in chain), key=lambda each: each.last
        )
        raise ConfigurationError(
            option,
            f"is later than what is backed up, which ends with 0x{newest.last_tid}",
            "leave the option out to get the newest backup",
        )
    # The newest is preferred: a database that was restored has had two futures.
    for chain in reversed(reaching):
        packed = chain[0].packed
        first = bytes.fromhex(chain[0].first_tid)
        if tid >= first and (packed is None or tid >= packed):
            end = next(i for i, each in enumerate(chain) if each.last >= tid)
            return Choice(chain[: end + 1], tid)
    raise ConfigurationError(
        option,
        "is before the first transaction that is backed up, or before the time to which the "
        "database had been packed: its state was not backed up",
        f"choose 0x{(reaching[0][0].packed_tid or reaching[0][0].first_tid)} or a later one",
    )
