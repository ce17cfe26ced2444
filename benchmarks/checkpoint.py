"""A trained checkpoint with the documents of a data file: its texts, and how often its exits agree."""

from collections.abc import Sequence

import torch
from transformers import AutoTokenizer, Seq2SeqTrainingArguments

from early_exit import ExitPolicy
from early_exit.decoding.results import DecodedRow
from early_exit.models.effective_generation import evaluation_options
from early_exit.models.head_training import agreement_with_full_depth
from early_exit.models.loading import load_model
from early_exit.models.sources import Source, padded_batch
from early_exit.models.stream import decode_prompts
from trainers.loss_table import PromptDecoder, Text
from util.arguments import DataArguments
from util.data import load_split
from util.tokens import tokenize

LONGEST = 64  # tokens of a text, the start token included
_BATCH = 32


class Checkpoint:
    """A model and what it decodes: the first `samples` validation examples of some data, or all."""

    def __init__(self, folder: str, data: DataArguments, samples: int | None):
        examples = load_split("validation", data.source(), samples)
        self.model, self._tokenizer = load_model(folder).eval(), AutoTokenizer.from_pretrained(folder)
        self._task, self._references = data.task, [[text] for text in examples["summary"]]
        self.tokens = tokenize(examples, self._tokenizer, data.tokenization, LONGEST)
        training = Seq2SeqTrainingArguments(
            "unused",
            use_cpu=True,
            per_device_eval_batch_size=_BATCH,
            generation_max_length=LONGEST,
            report_to="none",
        )
        self.prompts = PromptDecoder(self.model, training, self.tokens)
        self._options = evaluation_options(training)

    def decode(self, policy: ExitPolicy) -> list[Text]:
        """Every document's text, in float32."""
        return self.prompts.decode(range(len(self.tokens)), policy, "float32")

    def rows(self, policy: ExitPolicy) -> list[DecodedRow]:
        """The same, with all that decoding tells of it."""
        sources = [Source.of(torch.tensor(each)) for each in self.tokens["input_ids"]]
        return decode_prompts(self.model, policy, "float32", sources, _BATCH, self._options).rows

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens say."""
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def texts(self, policy: ExitPolicy) -> list[str]:
        """Every document's text, decoded in one way."""
        return [self.text(each.tokens) for each in self.decode(policy)]

    def scores(self, texts: Sequence[str]) -> dict[str, float]:
        """The task's scores of texts against the data's, in percent."""
        return self._task.scores(texts, self._references)

    def agreement(self, texts: list[list[int]]) -> list[float]:
        """As the function of that name. texts: tokens, one text a document."""
        return agreement(self.model, self.tokens["input_ids"], texts)


def agreement(model, sources: list[list[int]], texts: list[list[int]]) -> list[float]:
    """Of each exit below full depth: the share of the texts' tokens for which it, teacher-forced, chooses as
    full depth does."""
    agrees = torch.zeros(model.num_exits - 1)
    tokens = 0
    for first in range(0, len(sources), _BATCH):
        inputs, mask = padded_batch([torch.tensor(each) for each in sources[first : first + _BATCH]])
        labels, kept = padded_batch([torch.tensor(each) for each in texts[first : first + _BATCH]])
        seen = agreement_with_full_depth(model, inputs, mask, labels.masked_fill(kept == 0, -100))
        agrees += seen.agrees[:, seen.kept].sum(1)
        tokens += int(seen.kept.sum())
    return (agrees / tokens).tolist()
