"""Where the checks put what they find."""

from __future__ import annotations

from pathlib import Path

from ..complaints import Complaint
from ..outline import Section
from .rights import Rights


class Findings:
    """Complaints about one configuration.

    :param outline: what the file says.
    :param rights: what the user that runs the server may do.
    :ivar complaints: what was found.
    """

    def __init__(self, outline: Section, rights: Rights) -> None:
        self.outline = outline
        self.rights = rights
        self.complaints: list[Complaint] = []

    def error(self, section: Section, key: str, problem: str, remedy: str = "") -> None:
        """Note that the server cannot work with *key* of *section* (empty: the section)."""
        self._add(section, key, problem, remedy, is_error=True)

    def warning(self, section: Section, key: str, problem: str, remedy: str = "") -> None:
        """Note that *key* of *section* is likely to be a mistake."""
        self._add(section, key, problem, remedy, is_error=False)

    def _add(
        self, section: Section, key: str, problem: str, remedy: str, *, is_error: bool
    ) -> None:
        place = section.place_of(key)
        subject = key or section.header
        if key and section.setting(key) is not None and place is section.place:
            subject = f"{section.header}, {key}"
        self.complaints.append(Complaint(place, subject, problem, remedy, is_error))

    def check_file(self, section: Section, key: str, path: str, *, is_error: bool = True) -> bool:
        """Complain unless the file *path* can be written; return whether it can."""
        return self._check(section, key, self.rights.why_no_file(Path(path)), is_error)

    def check_directory(self, section: Section, key: str, path: str) -> bool:
        """Complain unless the directory *path* can be written to; return whether it can."""
        return self._check(section, key, self.rights.why_no_directory(Path(path)), True)

    def check_entry(self, section: Section, key: str, path: str) -> bool:
        """Complain unless something new can be made at *path*; return whether it can."""
        return self._check(section, key, self.rights.why_no_entry(Path(path)), True)

    def check_absolute(self, section: Section, key: str, path: str) -> None:
        """Warn if what *path* means depends on the directory in which the server is started."""
        if not Path(path).is_absolute():
            self.warning(
                section,
                key,
                f"{path} is relative to the directory in which the server is started",
                f"write {Path(path).absolute()}",
            )

    def _check(
        self, section: Section, key: str, why: tuple[str, str] | None, is_error: bool
    ) -> bool:
        if why is not None:
            self._add(section, key, *why, is_error=is_error)
        return why is None
