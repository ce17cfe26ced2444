"""What each token of a text contributes to it."""

from collections.abc import Sequence

_INCOMPLETE = "\ufffd"  # how a tokenizer shows a character of which bytes are still to come


def pieces(tokenizer, tokens: Sequence[int]) -> list[str]:
    """The texts of tokens: together `tokenizer.decode(tokens, skip_special_tokens=True)`.

    tokens: ids of a whole text. A special token has an empty text; of a character that spans several tokens
    (ByT5) the last one has all of it.
    """
    result, shown = [], ""
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:end], skip_special_tokens=True)
        if text.endswith(_INCOMPLETE) and end < len(tokens):
            result.append("")
            continue
        if not text.startswith(shown):  # the tokenizer has changed what it showed before: clean-up of spaces
            same = _shared(text, shown)
            result, shown = _cut(result, same), text[:same]
        result.append(text[len(shown) :])
        shown = text
    return result


def _shared(one: str, other: str) -> int:
    """How many first characters two texts share."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _cut(texts: list[str], length: int) -> list[str]:
    """Texts whose characters beyond `length`, counted over all, are dropped."""
    result = []
    for text in texts:
        result.append(text[:length])
        length -= len(result[-1])
    return result
