"""Hit rate over size as a picture.

A picture is a handful of lines, dots and words.  As SVG these are written down as they are; for PNG
they are painted with Pillow, which is asked for only then.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import log2
from typing import Any, Final, NamedTuple
from xml.sax.saxutils import escape

from ..errors import ConfigurationError

WIDTH: Final = 800
HEIGHT: Final = 480
LEFT, RIGHT, TOP, BOTTOM = 70, 120, 30, 60
FONT_SIZE: Final = 13
SCALE: Final = 2
"""Pixels of a PNG for each unit, so that it looks good on fine screens too."""

COLOURS: Final = ("#d55e00", "#e69f00", "#0072b2", "#555555", "#009e73", "#cc79a7")
"""Of Okabe and Ito's, which colour-blind people can tell from each other."""

GRID: Final = "#dddddd"
INK: Final = "#222222"


@dataclass
class Curve:
    """Hit rates by size.

    :ivar names: of the policies.
    :ivar points: ``(bytes, rate by name)``; rates from 0 to 1; sizes rise.
    """

    names: list[str]
    points: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)

    def add(self, size: int, rates: Mapping[str, float]) -> None:
        """Add the point of one size."""
        self.points.append((size, rates))


class Line(NamedTuple):
    """A line through points."""

    points: list[tuple[float, float]]
    colour: str
    width: float


class Dot(NamedTuple):
    """A filled circle."""

    at: tuple[float, float]
    colour: str


class Words(NamedTuple):
    """Text at a point.

    :ivar anchor: which end of it lies there: ``start``, ``middle`` or ``end``.
    """

    at: tuple[float, float]
    text: str
    anchor: str
    colour: str = INK


Shape = Line | Dot | Words


def draw(curve: Curve) -> list[Shape]:
    """Return the shapes of the picture, in a field of :data:`WIDTH` by :data:`HEIGHT`."""
    logs = [log2(size) for size, _ in curve.points]
    span = logs[-1] - logs[0]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(at: int) -> float:
        return LEFT + (right - LEFT) * ((logs[at] - logs[0]) / span if span else 0.5)

    def y(rate: float) -> float:
        return bottom - (bottom - TOP) * rate

    shapes: list[Shape] = []
    for tenth in range(0, 11, 2):
        rate = tenth / 10
        shapes.append(Line([(LEFT, y(rate)), (right, y(rate))], GRID, 1))
        shapes.append(Words((LEFT - 8, y(rate) + 4), f"{rate:.0%}", "end"))
    room = -1.0
    for at, (size, _) in enumerate(curve.points):
        shapes.append(Line([(x(at), TOP), (x(at), bottom)], GRID, 1))
        if x(at) > room:
            shapes.append(Words((x(at), bottom + 20), f"{size / (1 << 20):.3g}", "middle"))
            room = x(at) + 40
    shapes.append(Line([(LEFT, TOP), (LEFT, bottom), (right, bottom)], INK, 1))
    shapes.append(Words(((LEFT + right) / 2, HEIGHT - 14), "size of the cache in MB", "middle"))
    shapes.append(Words((LEFT, TOP - 12), "loads answered by the cache", "start"))
    for number, name in enumerate(curve.names):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x(at), y(rates[name])) for at, (_, rates) in enumerate(curve.points)]
        if len(points) > 1:
            shapes.append(Line(points, colour, 2))
        shapes += [Dot(point, colour) for point in points]
        legend = TOP + 20 * number + 10
        shapes.append(Line([(right + 15, legend), (right + 35, legend)], colour, 2))
        shapes.append(Words((right + 42, legend + 4), name, "start"))
    return shapes


def as_svg(shapes: list[Shape]) -> str:
    """Return *shapes* as an SVG document."""
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    font = f'font-family="sans-serif" font-size="{FONT_SIZE}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {HEIGHT}" {font}>',
        f'<rect {size} fill="white"/>',
    ]
    for shape in shapes:
        match shape:
            case Line(points, colour, width):
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
                lines.append(
                    f'<polyline points="{path}" fill="none" stroke="{colour}" '
                    f'stroke-width="{width}"/>'
                )
            case Dot((x, y), colour):
                lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
            case Words((x, y), text, anchor, colour):
                lines.append(
                    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
                    f"{escape(text)}</text>"
                )
    return "\n".join([*lines, "</svg>", ""])


def paint(shapes: list[Shape], image_module: Any, draw_module: Any, font: Any) -> Any:
    """Return *shapes* as an image of Pillow's.

    :param font: of ``SCALE * FONT_SIZE``.
    """
    # Painted larger and then reduced: that smooths the lines.
    fine = 2
    image = image_module.new("RGB", (WIDTH * SCALE * fine, HEIGHT * SCALE * fine), "white")
    pen = draw_module.Draw(image)
    factor = SCALE * fine
    for shape in shapes:
        match shape:
            case Line(points, colour, width):
                path = [(x * factor, y * factor) for x, y in points]
                pen.line(path, fill=colour, width=round(width * factor), joint="curve")
            case Dot((x, y), colour):
                pen.circle((x * factor, y * factor), 3 * factor, fill=colour)
    image = image.resize((WIDTH * SCALE, HEIGHT * SCALE), image_module.Resampling.LANCZOS)
    pen = draw_module.Draw(image)
    for shape in shapes:
        match shape:
            case Words((x, y), text, anchor, colour):
                place = {"start": "ls", "middle": "ms", "end": "rs"}[anchor]
                pen.text((x * SCALE, y * SCALE), text, fill=colour, font=font, anchor=place)
    return image


def find_painter(path: str) -> Callable[[Curve], None]:
    """Return what draws a curve into the file *path*.

    :raises ConfigurationError: at once if its end is neither .svg nor .png, its directory is
        missing, or Pillow is; from the function returned if the file cannot be written.
    """
    option = f"--plot {path}"
    kind = os.path.splitext(path)[1].lower()
    if kind not in (".svg", ".png"):
        raise ConfigurationError(option, "is no picture's name", "let it end in .svg or .png")
    if not os.path.isdir(os.path.dirname(path) or os.curdir):
        raise ConfigurationError(option, "there is no such directory")
    if kind == ".svg":
        return lambda curve: _write(option, path, as_svg(draw(curve)).encode())
    try:
        image_module, draw_module, font_module = (
            importlib.import_module(f"PIL.{name}") for name in ("Image", "ImageDraw", "ImageFont")
        )
    except ImportError as error:
        raise ConfigurationError(
            option,
            "Pillow, which paints PNG files, is not installed",
            "pip install 'zeolith[plot]', or let the name end in .svg",
        ) from error

    def paint_png(curve: Curve) -> None:
        font = font_module.load_default(SCALE * FONT_SIZE)
        buffer = io.BytesIO()
        paint(draw(curve), image_module, draw_module, font).save(buffer, "PNG", optimize=True)
        _write(option, path, buffer.getvalue())

    return paint_png


def _write(option: str, path: str, data: bytes) -> None:
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise ConfigurationError(option, f"cannot be written: {error.strerror}") from error
