"""A tokenizer trained from the texts at hand, for models that start from nothing."""

import json
import math
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import T5Tokenizer

_SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> T5Tokenizer:
    """A T5 tokenizer with at most `vocab_size` pieces, special tokens included.

    The pieces are found by byte-pair merges and scored by their log frequency. The `tokenizers`
    package's own unigram trainer takes its candidates from substrings that several distinct words
    share, so that "council" falls apart unless "councils" occurs as well.

    Raises ValueError where there is no text to learn from.
    """
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("cannot train a tokenizer: there is no text")
    merges = Tokenizer(models.BPE())
    merges.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(_SPECIAL_TOKENS), show_progress=False)
    merges.train_from_iterator(texts, trainer)
    counts = Counter(dict.fromkeys(json.loads(merges.to_str())["model"]["vocab"], 1))
    for encoding in merges.encode_batch(texts):
        counts.update(encoding.tokens)
    total = math.log(counts.total())
    pieces = [(piece, math.log(count) - total) for piece, count in counts.most_common()]
    return T5Tokenizer(vocab=[(token, 0.0) for token in _SPECIAL_TOKENS] + pieces, extra_ids=0)
