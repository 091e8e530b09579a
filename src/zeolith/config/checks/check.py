"""Everything that is wrong with a configuration, found without starting a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...errors import ConfigurationError
from ..accounts import Account
from ..complaints import Complaint
from ..outline import Place, Section
from ..server import server_schema, to_config
from ..survey import survey
from .addresses import check_addresses
from .background import account_of, check_logs, check_pid_file, check_runner
from .certificates import check_certificates
from .databases import check_storages
from .findings import Findings
from .rights import Rights
from .users import check_users

CHECKS: Final = (
    check_addresses,
    check_certificates,
    check_pid_file,
    check_users,
    check_storages,
    check_logs,
    check_runner,
)


@dataclass(frozen=True)
class Report:
    """What was found.

    :ivar outline: what the file says.
    :ivar complaints: errors and warnings in the order of the lines.
    """

    outline: Section
    complaints: list[Complaint]

    @property
    def errors(self) -> list[Complaint]:
        """What keeps the server from working."""
        return [complaint for complaint in self.complaints if complaint.is_error]

    @property
    def warnings(self) -> list[Complaint]:
        """What is likely to be a mistake."""
        return [complaint for complaint in self.complaints if not complaint.is_error]


def check_config(source: str, text: str | None = None, account: Account | None = None) -> Report:
    """Check a ``zeo.conf``; nothing is opened for writing, made or changed.

    :param source: a path or URL; or, with *text*, what to call that.
    :param text: the configuration itself.
    :param account: who will run the server; None: who ``<runner>`` says, or this process's user.
    """
    found = survey(server_schema(), source, text)
    findings = Findings(found.outline, Rights(account or account_of(found.outline)))
    for check in CHECKS:
        check(findings)
    # A check may come to a conclusion that reading the file has come to.
    complaints = list(dict.fromkeys([*found.complaints, *findings.complaints]))
    if not any(complaint.is_error for complaint in complaints):
        try:
            to_config(found.values, source)
        except ConfigurationError as error:
            complaints.append(Complaint(Place(source), "", error.problem, error.remedy))
    files = list(dict.fromkeys([source, *(complaint.place.file for complaint in complaints)]))
    complaints.sort(key=lambda one: (files.index(one.place.file), one.place.line))
    return Report(found.outline, complaints)
