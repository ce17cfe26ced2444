"""Texts of a run, token by token, beside full depth's."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from util.dissimilarity import TEXTUAL
from util.report.html import escaped, folded
from util.report.page import colour_rules

_SHOWN = 40  # examples of a setting: those with the largest loss


def texts_section(content: dict[str, Any], scope: str) -> str:
    """Of a `texts.json.gz`, see `util.run_texts`. scope: an id that no other part of the page has."""
    full = next((each for each in content["settings"] if each["full_depth"]), None)
    early = [each for each in content["settings"] if not each["full_depth"]]
    if not early:
        return ""
    layers = content["layers"]
    keys = "".join(f"<i class=c{layer}>{layer}</i>" for layer in range(1, layers + 1))
    parts = [
        f"<section id={scope}>{colour_rules(layers, scope)}<h3>Texts</h3>",
        f"<p class=key>Exit layer: {keys}</p>"
        "<p class=note>The colour of a token is the layer that it left at; hold the pointer over it for "
        "layer and confidence. <del>Struck through</del>: drafts that full depth did not accept. "
        "<span class=differs>Underlined</span>: where a text and full depth's differ. The largest loss "
        "comes first.</p>",
    ]
    for number, setting in enumerate(early):
        parts.append(_setting(setting, full, content["prompts"], is_open=number == 0))
    return "".join([*parts, "</section>"])


def _setting(
    setting: dict[str, Any], full: dict[str, Any] | None, prompts: Sequence[dict], is_open: bool
) -> str:
    losses, label = _losses(setting, full)
    order = sorted(range(len(setting["texts"])), key=lambda number: -losses[number])
    examples = [
        _example(
            prompts[number],
            setting["texts"][number],
            None if full is None else full["texts"][number],
            losses[number],
        )
        for number in order[:_SHOWN]
    ]
    changed = sum(loss > 0 for loss in losses)
    mean = sum(losses) / max(1, len(losses))
    summary = f"{setting['setting']}: mean {label} {mean:.3f}, {changed} of {len(losses)} texts above 0"
    return folded(summary, "".join(examples), is_open)


def _losses(setting: dict[str, Any], full: dict[str, Any] | None) -> tuple[list[float], str]:
    """Of each text, with their name: the run's own, else 1 − ROUGE-L to full depth's text."""
    if setting["losses"] is not None:
        return setting["losses"], "loss"
    if full is None:
        return [0.0] * len(setting["texts"]), "loss"
    pairs = zip(setting["texts"], full["texts"], strict=True)
    distances = [TEXTUAL["rouge"](_text(own), _text(other)) for own, other in pairs]
    return distances, "loss (1 − ROUGE-L to full depth's text)"


def _example(prompt: dict[str, Any], text: dict[str, Any], full: dict[str, Any] | None, loss: float) -> str:
    layers = text["exit_layers"]
    mean = sum(layers) / max(1, len(layers))
    other = [] if full is None else full["pieces"]
    own_differs, full_differs = _differences(text["pieces"], other)
    if full is None:
        own_differs = set()
    reference = prompt["reference"]
    shown = "" if reference is None else f"<p><span class=label>reference</span>{escaped(reference)}</p>"
    return (
        f"<div class=example><p class=note>loss {loss:.3f} · mean exit layer {mean:.2f}</p><div class=pair>"
        f"<p class=early><span class=label>with exits</span>{_tokens(text, own_differs)}</p>"
        f"<p class=full><span class=label>full depth</span>{_marked(other, full_differs)}</p></div>"
        + folded("document and reference", f"<p>{escaped(prompt['document'])}</p>{shown}")
        + "</div>"
    )


def _tokens(text: dict[str, Any], differs: set[int]) -> str:
    """Tokens on the colours of their layers, with dropped drafts before the token in whose place the first of
    them stood."""
    dropped: dict[int, list[str]] = {}
    for place, piece in _together(text["dropped"]):
        dropped.setdefault(place, []).append(piece)
    parts = []
    for place, piece in enumerate(text["pieces"]):
        parts += [f"<del>{escaped(each)}</del>" for each in dropped.pop(place, [])]
        layer, confidence = text["exit_layers"][place], text["confidences"][place]
        about = f"layer {layer}" + ("" if confidence is None else f", confidence {confidence:.3f}")
        names = f"c{layer}" + (" differs" if place in differs else "")
        parts.append(f'<i class="{names}" title="{about}">{escaped(piece) or "⏎"}</i>')
    parts += [f"<del>{escaped(each)}</del>" for pieces in dropped.values() for each in pieces]
    return "".join(parts)


def _together(dropped: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Drafts that stood behind each other as one piece, with the place of the first."""
    joined: list[tuple[int, str]] = []
    expected = None
    for place, piece in dropped:
        if place == expected:
            first, text = joined[-1]
            joined[-1] = (first, text + piece)
        else:
            joined.append((place, piece))
        expected = place + 1
    return joined


def _marked(pieces: Sequence[str], differs: set[int]) -> str:
    return "".join(
        f"<span class=differs>{escaped(piece)}</span>" if place in differs else escaped(piece)
        for place, piece in enumerate(pieces)
    )


def _differences(own: Sequence[str], other: Sequence[str]) -> tuple[set[int], set[int]]:
    """Places of pieces that the other text does not have there, in the one and in the other."""
    matched = SequenceMatcher(None, own, other, autojunk=False).get_matching_blocks()
    in_own = {block.a + step for block in matched for step in range(block.size)}
    in_other = {block.b + step for block in matched for step in range(block.size)}
    return set(range(len(own))) - in_own, set(range(len(other))) - in_other


def _text(text: dict[str, Any]) -> str:
    return "".join(text["pieces"])
