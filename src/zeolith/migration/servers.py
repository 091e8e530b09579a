"""What would change for a ``zeo.conf``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from ..config.checks.check import check_config
from ..config.outline import Section
from .remarks import Effect, Remarks


class Absent(NamedTuple):
    """A key whose default is another one.

    :ivar text: what holds.
    :ivar case: when something has to be written.
    :ivar value: what, then.
    """

    text: str
    value: str
    case: str = "for ZEO's meaning"


ABSENT: Final[Mapping[str, Absent]] = {
    "transaction-timeout": Absent(
        "a client may hold the commit lock for 30 seconds; in ZEO for ever", "0"
    ),
    "invalidation-queue-size": Absent(
        "10000 transactions are remembered, in 16 MB at most; in ZEO 100", "100"
    ),
    "invalidation-age": Absent(
        "what clients missed that were away for up to a day is read from the storage; in ZEO not",
        "0",
    ),
    "max-message-size": Absent(
        "a message of more than 256 MB, as of a record of that size, is refused; in ZEO of 4 GB",
        "1GB",
        "if there are such records",
    ),
    "conflict-resolution": Absent(
        "conflicts are resolved in a process of its own, within limits of time and memory; in ZEO "
        "in the server",
        "in-process",
    ),
}
"""Keys whose default is another one."""

_BACK: Final = {
    "monitor-address": "works again; ZEO has refused it since version 5",
    "authentication-protocol": "is not needed: there is one way to log in",
    "authentication-realm": "works again; ZEO has refused it since version 5",
}
"""Keys that ZEO 6 does not have any more."""


def check_server(source: str, remarks: Remarks) -> None:
    """Add what there is to say about the ``zeo.conf`` at *source*.

    What keeps it from working is what ``zeolith check-config`` finds.
    """
    report = check_config(source)
    for complaint in report.complaints:
        effect = Effect.REFUSED if complaint.is_error else Effect.HINT
        remarks.add(complaint.place, complaint.subject, effect, complaint.problem, complaint.remedy)
    for section in report.outline.find("zeo"):
        _check_zeo(section, remarks)
    for section in report.outline.find("zeoclient", "clientstorage"):
        remarks.add(
            section.place, section.header, Effect.CHANGED,
            "is opened with Zeolith's client, whatever is installed",
        )  # fmt: skip
    for section in report.outline.find("runner"):
        _check_runner(section, remarks)


def _check_zeo(section: Section, remarks: Remarks) -> None:
    address = section.setting("address")
    if address is not None and address.texts and re.fullmatch(r"\d+", address.texts[0]):
        port = address.texts[0]
        remarks.add(
            section.place_of("address"), "address", Effect.CHANGED,
            "a port alone is a port of this host only; in ZEO one of all interfaces",
            f"if other hosts are to connect: address *:{port}, or address HOST:{port}",
        )  # fmt: skip
    for key, absent in ABSENT.items():
        setting = section.setting(key)
        if key == "conflict-resolution" and section.value_of("client-conflict-resolution"):
            continue
        if setting is not None and setting.is_default:
            remarks.add(
                section.place, key, Effect.CHANGED, f"is not given: {absent.text}",
                f"{absent.case}: {key} {absent.value}",
            )  # fmt: skip
    for key, text in _BACK.items():
        setting = section.setting(key)
        if setting is not None and not setting.is_default:
            remarks.add(section.place_of(key), key, Effect.CHANGED, text)
    users = section.setting("authentication-database")
    if users is not None and not users.is_default:
        remarks.add(
            section.place_of(users.key), users.key, Effect.CHANGED,
            "works again; ZEO has refused it since version 5. The file has another form, and "
            "passwords have to be set anew",
            "zeolith user add, see docs/security.md",
        )  # fmt: skip


def _check_runner(section: Section, remarks: Remarks) -> None:
    program = section.setting("program")
    if program is not None and not program.is_default and "runzeo" in " ".join(program.texts):
        remarks.add(
            section.place_of("program"), "program", Effect.CHANGED,
            "runs what is installed under this name: PyPI's ZEO, or Zeolith if zeolith-zeo is "
            "installed in its place",
            "remove the line: zeolith ctl runs zeolith serve then",
        )  # fmt: skip
