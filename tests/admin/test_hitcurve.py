"""The picture of hit rates: as SVG, as PNG, and why not."""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from zeolith.admin.hitcurve import (
    COLOURS,
    HEIGHT,
    SCALE,
    WIDTH,
    Curve,
    Dot,
    Line,
    Words,
    as_svg,
    draw,
    find_painter,
)
from zeolith.errors import ConfigurationError

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def curve() -> Curve:
    curve = Curve(["ZEO", "A & <B>"])
    for n in range(8):
        curve.add(1 << (16 + n), {"ZEO": n / 10, "A & <B>": n / 8})
    return curve


def colour_of(text: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(text[1:]))


def test_a_picture_holds_every_point(curve: Curve) -> None:
    shapes = draw(curve)
    for number, name in enumerate(curve.names):
        (line,) = [
            shape
            for shape in shapes
            if isinstance(shape, Line) and shape.colour == COLOURS[number] and len(shape.points) > 2
        ]
        xs, ys = zip(*line.points)
        assert list(xs) == sorted(xs)
        assert list(ys) == sorted(ys, reverse=True)
        dots = [shape.at for shape in shapes if isinstance(shape, Dot)]
        assert set(line.points) <= set(dots)
        assert name in [shape.text for shape in shapes if isinstance(shape, Words)]
    words = {shape.text for shape in shapes if isinstance(shape, Words)}
    assert {"0%", "100%", "0.0625", "8", "size of the cache in MB"} <= words
    for shape in shapes:
        for x, y in shape.points if isinstance(shape, Line) else [shape.at]:
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


def test_one_point_and_many(curve: Curve) -> None:
    one = Curve(["ZEO"], [(1 << 20, {"ZEO": 0.5})])
    assert [type(shape) for shape in draw(one)].count(Dot) == 1
    many = Curve(["ZEO"])
    for n in range(200):
        many.add((1 << 20) + n, {"ZEO": 0.5})
    labels = [
        shape.at[0] for shape in draw(many) if isinstance(shape, Words) and shape.anchor == "middle"
    ]
    # The last is the name of the axis; the others do not run into each other.
    assert all(right - left > 40 for left, right in pairwise(labels[:-1]))


def test_svg(curve: Curve, tmp_path: Path) -> None:
    path = tmp_path / "rates.SVG"
    find_painter(str(path))(curve)
    root = ET.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    assert "A & <B>" in [element.text for element in root.iter(f"{SVG}text")]
    assert len(list(root.iter(f"{SVG}circle"))) == 16
    assert path.read_text() == as_svg(draw(curve))


def test_png(curve: Curve, tmp_path: Path) -> None:
    path = tmp_path / "rates.png"
    find_painter(str(path))(curve)
    with Image.open(path) as image:
        assert image.size == (WIDTH * SCALE, HEIGHT * SCALE)
        for shape in draw(curve):
            if isinstance(shape, Dot) and shape.colour == COLOURS[1]:
                place = (round(shape.at[0] * SCALE), round(shape.at[1] * SCALE))
                assert image.getpixel(place) == colour_of(COLOURS[1])
        # There are words below the field.
        bottom = image.crop((0, (HEIGHT - 30) * SCALE, WIDTH * SCALE, HEIGHT * SCALE))
        assert any(bottom.convert("L").histogram()[:100])


def test_without_pillow(monkeypatch: pytest.MonkeyPatch, curve: Curve, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'zeolith\[plot\]'"):
        find_painter(str(tmp_path / "rates.png"))
    find_painter(str(tmp_path / "rates.svg"))(curve)


def test_files_that_cannot_be(curve: Curve, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"let it end in \.svg or \.png"):
        find_painter(str(tmp_path / "rates.pdf"))
    with pytest.raises(ConfigurationError, match="there is no such directory"):
        find_painter(str(tmp_path / "none" / "rates.svg"))
    path = tmp_path / "rates.svg"
    os.mkdir(path)
    painter = find_painter(str(path))
    with pytest.raises(ConfigurationError, match=r"rates\.svg: cannot be written: Is a directory"):
        painter(curve)
