"""Colours for exit layers, from yellow (the first) to blue (full depth).

The scale is cividis (Nuñez, Anderton & Renslow 2018), made to look alike with and without colour vision:
lightness alone orders it.
"""

import os
from typing import TextIO

# The scale at nine equal steps, dark to light; between them it is straight.
_SCALE = (
    (0, 34, 78), (26, 56, 111), (67, 78, 108), (97, 101, 111), (125, 124, 120),
    (155, 148, 118), (188, 174, 108), (222, 201, 88), (254, 232, 56),
)  # fmt: skip
_RESET = "\x1b[0m"
_LIGHT = 0.179  # relative luminance where black and white text have the same contrast


def exit_colour(layer: int, layers: int) -> tuple[int, int, int]:
    """Red, green and blue in [0, 255] of an exit layer, 1 to `layers`."""
    place = (1 - (layer - 1) / max(1, layers - 1)) * (len(_SCALE) - 1)
    first = min(int(place), len(_SCALE) - 2)
    share = place - first
    pairs = zip(_SCALE[first], _SCALE[first + 1], strict=True)
    return tuple(round(low + share * (high - low)) for low, high in pairs)


def text_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever reads better on a colour."""
    red, green, blue = ((value / 255) ** 2.2 for value in colour)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > _LIGHT else (255, 255, 255)


def wants_colour(stream: TextIO) -> bool:
    """Whether a stream gets colours: a terminal that is not dumb, with NO_COLOR (no-color.org) unset."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, layer: int, layers: int) -> str:
    """A text on its exit layer's colour, for a terminal: of 16 million colours where COLORTERM says so, else
    of 256."""
    colour = exit_colour(layer, layers)
    return f"\x1b[48;{_code(colour)};38;{_code(text_on(colour))}m{text}{_RESET}"


def numbered(text: str, layer: int) -> str:
    """The same without colours: the layer behind the text."""
    return f"{text}[{layer}]"


def legend(layers: int, colours: bool) -> str:
    """One line that explains the colours, or the numbers in their place."""
    if not colours:
        return "[n]: the exit layer of the token before it"
    return "exit layer: " + "".join(coloured(f" {layer} ", layer, layers) for layer in range(1, layers + 1))


def _code(colour: tuple[int, int, int]) -> str:
    if os.environ.get("COLORTERM") in ("truecolor", "24bit"):
        return f"2;{colour[0]};{colour[1]};{colour[2]}"
    return f"5;{nearest_of_256(colour)}"


def nearest_of_256(colour: tuple[int, int, int]) -> int:
    """The number of a terminal's nearest colour, in its cube of 6 × 6 × 6 or among its 24 greys."""
    levels = (0, 95, 135, 175, 215, 255)
    cube = {
        16 + 36 * r + 6 * g + b: (levels[r], levels[g], levels[b])
        for r in range(6)
        for g in range(6)
        for b in range(6)
    }
    greys = {232 + step: (8 + 10 * step,) * 3 for step in range(24)}
    palette = cube | greys
    return min(
        palette, key=lambda number: sum((a - b) ** 2 for a, b in zip(palette[number], colour, strict=True))
    )
