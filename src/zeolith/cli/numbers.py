"""Numbers on the command line."""

from __future__ import annotations

from math import isnan
from typing import Any

import click


class NumberRange(click.FloatRange):
    """A range of numbers.  What is called ``nan`` is in none: it is below no limit and above none,
    so that click would let it pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; fails as inherited."""
        number: float = super().convert(value, param, ctx)
        if isnan(number):
            self.fail(f"{value} is no number.", param, ctx)
        return number
