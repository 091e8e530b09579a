"""ZConfig's matchers, which check and convert sections, made to complain of everything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ZConfig.matcher

from .complaints import Complaint, complain, complain_about, place_of
from .outline import BROKEN, Place, Section, Setting


@dataclass
class Recorder:
    """What reading a configuration yields, and where it is.

    :ivar source: the configuration, as the user named it.
    :ivar outline: the configuration as sections and settings.
    :ivar complaints: what is wrong with it.
    :ivar position: the line being read.
    """

    source: str
    outline: Section
    complaints: list[Complaint] = field(default_factory=list)
    position: Place = field(default_factory=lambda: Place(""))

    def complain(self, complaint: Complaint) -> None:
        """Note *complaint*."""
        self.complaints.append(complaint)


class Skipped:
    """Takes the lines of a section that cannot be understood."""

    def addValue(self, key: str, value: str, position: Any) -> None:  # noqa: N802
        pass

    def finish(self) -> Any:
        return BROKEN


class Matcher:
    """What a section and the whole file have in common: checks all and complains of all.

    :ivar recorder: where complaints go.
    :ivar outline: what the section says.
    :ivar is_sound: whether nothing was wrong yet.
    :ivar tried: keys that were given, but could not be read.
    """

    recorder: Recorder
    outline: Section
    is_sound: bool
    tried: set[str]
    type: Any
    _values: dict[str, Any]
    handlers: list[Any]

    def _begin(self, recorder: Recorder, outline: Section) -> None:
        self.recorder = recorder
        self.outline = outline
        self.is_sound = True
        self.tried = set()
        self._is_incomplete = False

    def skip(self) -> None:
        """A section in this one was left out."""
        self.is_sound = False
        self._is_incomplete = True

    def known_keys(self) -> list[str]:
        return [key for key, info in self.type if key and not info.issection()]

    def createChildMatcher(self, type_: Any, name: str | None) -> Any:  # noqa: N802
        made = super().createChildMatcher(type_, name)  # type: ignore[misc]
        outline = Section(type_.name, name, self.recorder.position)
        self.outline.sections.append(outline)
        return SectionMatcher(self.recorder, outline, made.info, type_, name, self.handlers)

    def finish(self) -> Any:
        """Return the section's value; :data:`BROKEN` if anything in it is wrong."""
        for key, info in self.type:
            if info.issection():
                self._finish_sections(info)
            else:
                self._finish_key(key, info)
        if not self.is_sound:
            return BROKEN
        for _, info in self.type:
            if info.handler is not None:
                self.handlers.append((info.handler, self._values[info.attribute]))
        return self.createValue()  # type: ignore[attr-defined]

    def _finish_sections(self, info: Any) -> None:
        found = self._values[info.attribute]
        sections = found if info.ismulti() else [] if found is None else [found]
        if len(sections) < info.minOccurs and not self._is_incomplete:
            kind = info.sectiontype.name
            if info.sectiontype.isabstract():
                self._complain("there is no storage", "add one, for instance <filestorage>")
            else:
                self._complain(f"there is no <{kind}> section", "add one")
        converted = [self._convert_section(section) for section in sections]
        self._values[info.attribute] = converted if info.ismulti() else (converted or [None])[0]

    def _convert_section(self, section: Any) -> Any:
        if section is BROKEN:
            self.is_sound = False
            return BROKEN
        outline = section.getSectionMatcher().outline
        try:
            outline.value = section.getSectionDefinition().datatype(section)
        except Exception as error:  # noqa: BLE001 - a datatype of a package may raise anything
            self.is_sound = False
            self.recorder.complain(complain_about(error, outline))
        return outline.value

    def _finish_key(self, key: str, info: Any) -> None:
        given = self._values[info.attribute]
        if info.name == "+":
            given = given or info.getdefault()
            self._values[info.attribute] = {
                name: [self._convert(info, name, one) for one in values]
                if info.ismulti()
                else self._convert(info, name, values)
                for name, values in given.items()
            }
            return
        values = given if info.ismulti() else [] if given is None else [given]
        if len(values) < info.minOccurs and key not in self.tried:
            self._complain(f"the key {key} is missing", "add it")
        is_default = not values
        if is_default:
            default = info.getdefault()
            values = default if info.ismulti() else [] if default is None else [default]
        converted = [self._convert(info, key, value, is_default) for value in values]
        is_whole = BROKEN not in converted
        value = converted if info.ismulti() else (converted or [None])[0]
        self._values[info.attribute] = value
        self.outline.settings.append(
            Setting(
                key,
                [one.value for one in values],
                value if is_whole else BROKEN,
                None if is_default else self._place(values[0]),
                info.ismulti(),
                " ".join((info.metadefault or "").split()),
            )
        )

    def _convert(self, info: Any, key: str, value: Any, is_default: bool = False) -> Any:
        try:
            return info.datatype(value.value)
        except Exception as error:  # noqa: BLE001 - a datatype of a package may raise anything
            self.is_sound = False
            place = self.outline.place if is_default else self._place(value)
            self.recorder.complain(complain(error, place, key))
            return BROKEN

    def _place(self, value: Any) -> Place:
        line, _, url = value.position
        return place_of(url, line, self.recorder.source)

    def _complain(self, problem: str, remedy: str) -> None:
        self.is_sound = False
        outline = self.outline
        self.recorder.complain(
            Complaint(outline.place, outline.header if outline.type else "", problem, remedy)
        )


class FileMatcher(Matcher, ZConfig.matcher.SchemaMatcher):
    def __init__(self, recorder: Recorder, schema: Any) -> None:
        ZConfig.matcher.SchemaMatcher.__init__(self, schema)
        self._begin(recorder, recorder.outline)

    def finish(self) -> Any:
        value = super().finish()
        return value if value is BROKEN else self.type.datatype(value)


class SectionMatcher(Matcher, ZConfig.matcher.SectionMatcher):
    def __init__(
        self,
        recorder: Recorder,
        outline: Section,
        info: Any,
        type_: Any,
        name: str | None,
        handlers: list[Any],
    ) -> None:
        ZConfig.matcher.SectionMatcher.__init__(self, info, type_, name, handlers)
        self._begin(recorder, outline)
