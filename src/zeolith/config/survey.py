"""Reading a configuration to its end, whatever is wrong with it.

ZConfig stops at the first mistake.  Here its parser goes on after each one, so that all can be
told at once; and because the server reads its configuration here as well, what it refuses and
what is told are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from io import StringIO
from typing import Any, Final

import ZConfig
from ZConfig.cfgparser import ZConfigParser
from ZConfig.loader import ConfigLoader

from .complaints import Complaint, complain, place_of
from .matchers import FileMatcher, Recorder, Skipped
from .outline import Place, Section

_MAX_INCLUDES: Final = 32
"""Files on the way to a line.  Each takes some of Python's stack."""


@dataclass
class Survey:
    """What was found.

    :ivar outline: the file as sections and settings.
    :ivar complaints: what is wrong, in the order of the lines.
    :ivar values: ZConfig's values; None if there is a complaint.
    """

    outline: Section
    complaints: list[Complaint]
    values: Any


def survey(schema: Any, source: str, text: str | None = None) -> Survey:
    """Read a configuration.

    :param schema: ZConfig's.
    :param source: a path or URL; or, with *text*, what to call that.
    :param text: the configuration itself.
    """
    loader = _Loader(schema, source)
    complaints = loader.recorder.complaints
    values = None
    try:
        if text is None:
            values, _ = loader.loadURL(source)
        else:
            # Without a URL, %include and relative paths have nothing to be relative to.
            values, _ = loader.loadFile(StringIO(text))
    except ZConfig.ConfigurationError as error:
        complaints.append(complain(error, place_of(error.url, None, source), ""))
    except UnicodeDecodeError:
        complaints.append(Complaint(Place(source), "", "is not text in UTF-8", "check the path"))
    except (OSError, ValueError, HTTPException) as error:
        problem = f"cannot be read: {error}"
        complaints.append(Complaint(Place(source), "", problem, "check the path"))
    files = list(dict.fromkeys(complaint.place.file for complaint in complaints))
    complaints.sort(key=lambda one: (files.index(one.place.file), one.place.line))
    return Survey(loader.recorder.outline, complaints, None if complaints else values)


class _Loader(ConfigLoader):
    """Hands out matchers and parsers that go on after mistakes."""

    def __init__(self, schema: Any, source: str) -> None:
        super().__init__(schema)
        self.recorder = Recorder(source, Section("", None, Place(source)))
        self.has_failed_import = False
        self._includes: list[str] = []

    # -- what ZConfig calls ----------------------------------------------------------------------

    def createSchemaMatcher(self) -> Any:  # noqa: N802 - ZConfig's name
        return FileMatcher(self.recorder, self.schema)

    def startSection(self, parent: Any, type_: str, name: str | None) -> Any:  # noqa: N802
        if isinstance(parent, Skipped):
            return parent
        return super().startSection(parent, type_, name)

    def endSection(self, parent: Any, type_: str, name: str | None, matcher: Any) -> None:  # noqa: N802
        value = matcher.finish()
        if not isinstance(parent, Skipped) and not isinstance(matcher, Skipped):
            parent.addSection(type_, name, value)

    def includeConfiguration(self, section: Any, url: str, defines: Any) -> None:  # noqa: N802
        url = self.normalizeURL(url)
        if url in self._includes:
            raise ZConfig.ConfigurationError("the file includes itself")
        if len(self._includes) >= _MAX_INCLUDES:
            raise ZConfig.ConfigurationError(
                f"more than {_MAX_INCLUDES} files include one another: put them into fewer"
            )
        self._includes.append(url)
        try:
            super().includeConfiguration(section, url, defines)
        finally:
            self._includes.pop()

    def _parse_resource(self, matcher: Any, resource: Any, defines: Any = None) -> None:
        if not self._includes and resource.url:
            self._includes.append(resource.url)
        _Parser(resource, self, defines).parse(matcher)


class _Parser(ZConfigParser):
    """Parses one file; a line that cannot be used is complained about and left out."""

    context: _Loader

    def __init__(self, resource: Any, context: _Loader, defines: Any) -> None:
        super().__init__(resource, context, defines)
        self._current: Any = None  # the section being read
        self._at_end = False
        self._line = ""

    def parse(self, section: Any) -> None:
        self._current = section
        while not self._at_end:
            try:
                super().parse(self._current)
            except ZConfig.ConfigurationError as error:
                if not (self._at_end and self.stack):
                    self._complain(error, self._line)
        while self.stack:
            type_, _, _ = self.stack[-1]
            place = getattr(self._current, "outline", None)
            self.context.recorder.complain(
                Complaint(
                    place.place if place else self._place(),
                    f"<{type_}>",
                    "the section does not end",
                    f"add </{type_}>",
                )
            )
            self._end(type_)

    def nextline(self) -> Any:
        at_end, line = super().nextline()
        self._at_end = at_end
        self._line = line or ""
        self.context.recorder.position = self._place()
        return at_end, line

    def start_section(self, section: Any, rest: str) -> Any:
        try:
            self._current = super().start_section(section, rest)
        except ZConfig.ConfigurationError as error:
            failed = self.context.has_failed_import and "unknown type name" in error.message
            if not failed:
                # After an %import that failed it is no wonder that a section is unknown.
                self._complain(error, f"<{rest}>", self.context.schema.gettypenames())
            if not isinstance(section, Skipped):
                section.skip()
            if rest.endswith("/"):
                self._current = section
            else:
                type_ = rest.split()[0].lower() if rest.split() else ""
                self.stack.append((type_, None, section))
                self._current = Skipped()
        return self._current

    def end_section(self, section: Any, rest: str) -> Any:
        type_ = rest.strip().lower()
        if type_ not in [opened for opened, _, _ in self.stack]:
            remedy = f"write </{self.stack[-1][0]}>" if self.stack else "remove the line"
            self.context.recorder.complain(
                Complaint(self._place(), f"</{rest}>", "no such section is open here", remedy)
            )
            return section
        while self.stack[-1][0] != type_:
            opened = self.stack[-1][0]
            self.context.recorder.complain(
                Complaint(
                    self._place(),
                    f"</{rest}>",
                    f"the section <{opened}> in it does not end before",
                    f"add </{opened}> above",
                )
            )
            self._end(opened)
        self._end(type_)
        return self._current

    def _end(self, type_: str) -> None:
        """Take the innermost section, which is of *type_*, to its end."""
        section, self._current = self._current, self.stack[-1][2]
        try:
            super().end_section(section, type_)
        except ZConfig.ConfigurationError as error:
            outline = getattr(section, "outline", None)
            if outline is None:
                self._complain(error, f"</{type_}>")
            else:
                self.context.recorder.complain(complain(error, outline.place, outline.header))
            if not isinstance(self._current, Skipped):
                self._current.skip()

    def handle_key_value(self, section: Any, rest: str) -> None:
        try:
            super().handle_key_value(section, rest)
        except ZConfig.ConfigurationError as error:
            known = [] if isinstance(section, Skipped) else section.known_keys()
            self._complain(error, rest.split()[0], known)
            if not isinstance(section, Skipped):
                section.is_sound = False
                section.tried.add(rest.split()[0].lower())

    def handle_directive(self, section: Any, rest: str) -> None:
        subject = f"%{rest}"
        try:
            super().handle_directive(section, rest)
        except ZConfig.ConfigurationError as error:
            self._complain(error, subject)
        except Exception as error:  # noqa: BLE001 - an imported package may do anything
            self.context.recorder.complain(complain(error, self._place(), subject))
        else:
            return
        if rest.startswith(("import", "include")):
            self.context.has_failed_import = True
            if not isinstance(section, Skipped):
                section.skip()

    def _place(self) -> Place:
        return place_of(self.url, self.lineno, self.context.recorder.source)

    def _complain(
        self, error: ZConfig.ConfigurationError, subject: str, known_words: Iterable[str] = ()
    ) -> None:
        self.context.recorder.complain(complain(error, self._place(), subject, known_words))
