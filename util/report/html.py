"""HTML as text. Whatever comes from a file goes through `escaped`."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from matplotlib import rc_context
from matplotlib.figure import Figure


def escaped(text: object) -> str:
    """A value as text that holds no markup."""
    return escape(str(text), quote=True)


def table(rows: Sequence[Sequence[object]]) -> str:
    """A table; the first row is the header."""
    head = "".join(f"<th>{escaped(cell)}</th>" for cell in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in rows[1:])
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def folded(summary: str, content: str, is_open: bool = False) -> str:
    """What a click opens. summary: a text; content: HTML."""
    return f"<details{' open' if is_open else ''}><summary>{escaped(summary)}</summary>{content}</details>"


def figures(drawn: Iterable[tuple[str, Figure]]) -> str:
    """Figures with captions, as pictures inside of the page."""
    return "".join(
        f'<figure><img alt="{escaped(caption)}" src="data:image/svg+xml;base64,{_svg(figure)}">'
        f"<figcaption>{escaped(caption)}</figcaption></figure>"
        for caption, figure in drawn
    )


def _svg(figure: Figure) -> str:
    """Transparent, and the same bytes each time."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return base64.b64encode(buffer.getvalue()).decode()
