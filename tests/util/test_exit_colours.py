"""Colours of exit layers: the scale, and when a terminal gets them."""

import io

import pytest
from matplotlib import colormaps

from util.exit_colours import coloured, exit_colour, legend, nearest_of_256, text_on, wants_colour

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def luminance(colour):
    """WCAG 2.1, relative luminance."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("layers", [2, 6, 12, 24])
def test_the_scale_is_matplotlibs_cividis(layers):
    cividis = colormaps["cividis"]
    for layer in range(1, layers + 1):
        theirs = cividis(1 - (layer - 1) / (layers - 1))[:3]
        assert exit_colour(layer, layers) == pytest.approx([255 * value for value in theirs], abs=19)


@pytest.mark.parametrize("layers", [1, 2, 6, 12, 24])
def test_text_on_a_colour_can_be_read(layers):
    for layer in range(1, layers + 1):
        colour = exit_colour(layer, layers)
        pair = sorted([luminance(colour), luminance(text_on(colour))])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, layer  # WCAG's level AA


def test_layers_of_a_small_model_differ_in_256_colours():
    assert len({nearest_of_256(exit_colour(layer, 6)) for layer in range(1, 7)}) == 6
    assert nearest_of_256(BLACK) == 16
    assert nearest_of_256(WHITE) == 231
    assert nearest_of_256((255, 0, 0)) == 196
    assert nearest_of_256((119, 118, 118)) == 243


@pytest.mark.parametrize(
    ("stream", "environment", "wanted"),
    [
        (Terminal(), {}, True),
        (io.StringIO(), {}, False),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals(stream, environment, wanted, monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wants_colour(stream) == wanted


def test_escape_codes(monkeypatch):
    monkeypatch.setenv("COLORTERM", "truecolor")
    assert coloured("word", 1, 6) == "\x1b[48;2;254;232;56;38;2;0;0;0mword\x1b[0m"
    monkeypatch.delenv("COLORTERM")
    assert coloured("word", 6, 6) == f"\x1b[48;5;{nearest_of_256((0, 34, 78))};38;5;231mword\x1b[0m"
    assert legend(6, colours=True).count("\x1b[0m") == 6
    assert "\x1b" not in legend(6, colours=False)
