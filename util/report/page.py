"""The page around the sections."""

from pathlib import Path

from util.exit_colours import exit_colour, text_on
from util.report.html import escaped

_STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
_DEEPEST = 64  # layers that have a colour of their own


def page(title: str, sections: str) -> str:
    """A whole document. title: a text; sections: HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escaped(title)}</h1>{sections}</body></html>\n"
    )


def colour_rules(layers: int, scope: str) -> str:
    """A style sheet with a class of each exit layer, c1 to cL, below the element whose id is `scope`."""
    rules = []
    for layer in range(1, min(layers, _DEEPEST) + 1):
        colour = exit_colour(layer, layers)
        rules.append(f"#{scope} .c{layer}{{background:{_hex(colour)};color:{_hex(text_on(colour))}}}")
    return f"<style>{''.join(rules)}</style>"


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
