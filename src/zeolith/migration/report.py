"""What ``zeolith migrate-check`` prints."""

from __future__ import annotations

import json
from typing import Final

from ..config.complaints import shown
from .remarks import Effect, Remark, Remarks

_WORDS: Final = {Effect.REFUSED: "to be changed", Effect.CHANGED: "different", Effect.HINT: "note"}


def as_text(remarks: Remarks) -> str:
    """Return *remarks* for people."""
    parts = []
    for remark in remarks.sorted():
        place = f"{remark.place}, {remark.subject}" if remark.subject else str(remark.place)
        text = f"{_WORDS[remark.effect]}: {place}\n  {remark.text}\n"
        parts.append(text + (f"  -> {remark.remedy}\n" if remark.remedy else ""))
    parts.append(f"{remarks.source}, taken for a {remarks.kind}: {summary(remarks)}\n")
    return shown("\n".join(parts))


def summary(remarks: Remarks) -> str:
    """Return the result in a few words."""
    counts = [
        f"{len(found)} {_WORDS[effect]}"
        for effect in (Effect.REFUSED, Effect.CHANGED)
        if (found := remarks.of(effect))
    ]
    return ", ".join(counts) or "nothing would change"


def as_json(remarks: Remarks) -> str:
    """Return *remarks* for programs."""
    found = {"file": remarks.source, "kind": remarks.kind}
    lists = {effect.value: [_remark(one) for one in remarks.of(effect)] for effect in Effect}
    return json.dumps({**found, **lists}, indent=2)


def _remark(remark: Remark) -> dict[str, object]:
    return {
        "file": remark.place.file,
        "line": remark.place.line or None,
        "subject": remark.subject or None,
        "text": remark.text,
        "remedy": remark.remedy or None,
    }
