"""A place of a picture as HTML: the cut-out, darkened where the latent does not fire.

Darkness and not a colour, since pictures in false colour have them all.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.report.html import Html, join, tag
from reseed.store.png import Pixels, png_bytes, png_pixels

_SIDE = 116
"""Longest side on the screen, in pixels of CSS."""

_DARK = 0.75
"""Share of a picture taken away where the latent is silent; half of it where it has no row."""


def crop_shown(place: dict[str, Any], top: float) -> Html:
    """A row of `crops.parquet` joined with its picture; `top` is the latent's largest activation.

    The layer of activations is taken away while a pointer rests on the picture.
    """
    heat, size = _heat(place, top), None
    layers: list[Html] = []
    if place["picture"] is not None:
        pixels = _cut(png_pixels(place["picture"]), place)
        size = pixels.shape[:2]
        layers.append(_image(pixels, _words(place)))
    if heat is not None:
        size = size or heat.shape[:2]
        layers.append(_image(heat, "" if layers else _words(place), "heat"))
    if size is None:
        return tag("p", _words(place), class_="context")
    high, wide = (max(1, round(_SIDE * side / max(size))) for side in size)
    layered = tag("div", *layers, class_="layers", style=f"width:{wide}px;height:{high}px")
    label = place["label"] and tag("small", place["label"], dir="auto")
    said = tag("figcaption", f"{place['activation']:.3g}", " " if label else None, label)
    return tag("figure", layered, said, class_="crop")


def _words(place: dict[str, Any]) -> str:
    where = f", row {place['y']}, column {place['x']}" if place["y"] >= 0 else ""
    label = f", {place['label']}" if place["label"] else ""
    return f"sample {place['sample']}{where}{label}, activation {place['activation']:.3g}"


def _image(pixels: Pixels, words: str, class_: str | None = None) -> Html:
    content = base64.b64encode(png_bytes(pixels)).decode()
    title = words or None
    source = f"data:image/png;base64,{content}"
    return tag("img", src=source, alt=words, title=title, class_=class_)


def _shape(place: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the window, in positions of the map."""
    return len(place["activations"]) // max(place["width"], 1), place["width"]


def _cut(pixels: Pixels, place: dict[str, Any]) -> Pixels:
    """The part of a picture that the window of positions is of; all of it without a map."""
    high, wide = _shape(place)
    if not wide:
        return pixels
    ends: list[tuple[int, int]] = []
    for side, first, length, whole in (
        (pixels.shape[0], place["first_y"], high, place["map_height"]),
        (pixels.shape[1], place["first_x"], wide, place["map_width"]),
    ):
        low = min(round(side * first / whole), side - 1)
        ends.append((low, max(low + 1, round(side * (first + length) / whole))))
    (top, bottom), (left, right) = ends
    return pixels[top:bottom, left:right]


def _heat(place: dict[str, Any], top: float) -> Pixels | None:
    """`[high, wide, 4]` the activations as a layer of black; None where they stand in no map."""
    high, wide = _shape(place)
    if not wide:
        return None
    values: NDArray[np.float32] = np.array(place["activations"], np.float32).reshape(high, wide)
    strength = np.nan_to_num(np.sqrt(values / top), nan=0.5).clip(0, 1)
    out = np.zeros((high, wide, 4), np.uint8)
    out[..., 3] = (255 * _DARK * (1 - strength)).round()
    return out


def crops_shown(places: Sequence[dict[str, Any]]) -> Html | None:
    """The strongest places of a latent side by side; None without any."""
    if not places:
        return None
    top = max(place["activation"] for place in places)
    return tag("div", join(*(crop_shown(place, top) for place in places)), class_="crops")


_PICTURE = re.compile(r'src="(data:image/png;base64,[^"]+)"')


def pictures_once(body: Html) -> tuple[Html, list[str]]:
    """The page with a number for each picture, and the pictures, since one stands there often.

    The script of the page puts them back.
    """
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        return f'data-picture="{numbers.setdefault(found[1], len(numbers))}"'

    return Html(_PICTURE.sub(number, body)), list(numbers)
