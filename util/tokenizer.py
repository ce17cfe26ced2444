"""A tokenizer trained from the texts at hand, for models that start from nothing."""

import json
import math
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, T5Tokenizer

from util.errors import UsageError

_SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> T5Tokenizer:
    """A T5 tokenizer with at most `vocab_size` pieces, special tokens included. Where the texts have more
    characters than that, the rarest are unknown to it.

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
    pieces_left = vocab_size - len(_SPECIAL_TOKENS)
    trainer = trainers.BpeTrainer(vocab_size=pieces_left, limit_alphabet=pieces_left, show_progress=False)
    merges.train_from_iterator(texts, trainer)
    counts = Counter(dict.fromkeys(json.loads(merges.to_str())["model"]["vocab"], 1))
    for encoding in merges.encode_batch(texts):
        counts.update(encoding.tokens)
    total = math.log(counts.total())
    pieces = [(piece, math.log(count) - total) for piece, count in counts.most_common()]
    return T5Tokenizer(vocab=[(token, 0.0) for token in _SPECIAL_TOKENS] + pieces, extra_ids=0)


def number_of_ids(tokenizer) -> int:
    """How many embeddings a tokenizer needs: its ids may have holes, so this is not its number of tokens."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))


def fit_embeddings(model: PreTrainedModel, tokenizer, may_grow: bool) -> None:
    """Gives the model embeddings for all of the tokenizer's ids. Raises UsageError where it may not grow."""
    rows, needed = model.get_input_embeddings().num_embeddings, number_of_ids(tokenizer)
    if needed > rows and not may_grow:
        raise UsageError(
            f"the tokenizer has ids up to {needed - 1}, the model embeddings for {rows}: more of them need "
            "training, --do_train of the model itself"
        )
    if needed > rows:
        model.resize_token_embeddings(needed)
    if tokenizer.pad_token_id is None:
        raise UsageError("--tokenizer_name: the tokenizer has no padding token")
