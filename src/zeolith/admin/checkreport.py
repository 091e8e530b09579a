"""What ``zeolith check-config`` prints."""

from __future__ import annotations

import json
from typing import Any

from ..config.checks.check import Report
from ..config.complaints import Complaint, shown
from ..config.effective import format_outline, to_json


def as_text(report: Report, source: str, *, with_settings: bool = True) -> str:
    """Return *report* for people: the configuration that holds, then what is wrong with it."""
    parts = []
    if with_settings and report.outline.sections:
        parts.append(f"The configuration that holds:\n\n{format_outline(report.outline)}")
    for complaint in report.complaints:
        kind = "error" if complaint.is_error else "warning"
        place = f"{complaint.place}, {complaint.subject}" if complaint.subject else complaint.place
        text = f"{kind}: {place}\n  {complaint.problem}\n"
        parts.append(text + (f"  -> {complaint.remedy}\n" if complaint.remedy else ""))
    parts.append(f"{source}: {summary(report)}\n")
    return shown("\n".join(parts))


def summary(report: Report) -> str:
    """Return the result in a few words."""
    counts = [
        f"{len(found)} {kind}{'' if len(found) == 1 else 's'}"
        for kind, found in (("error", report.errors), ("warning", report.warnings))
        if found
    ]
    return ", ".join(counts) or "no mistakes found"


def as_json(report: Report, source: str) -> str:
    """Return *report* for programs."""
    return json.dumps(
        {
            "file": source,
            "errors": [_complaint(complaint) for complaint in report.errors],
            "warnings": [_complaint(complaint) for complaint in report.warnings],
            "configuration": to_json(report.outline),
        },
        indent=2,
    )


def _complaint(complaint: Complaint) -> dict[str, Any]:
    return {
        "file": complaint.place.file,
        "line": complaint.place.line or None,
        "subject": complaint.subject or None,
        "problem": complaint.problem,
        "remedy": complaint.remedy or None,
    }
