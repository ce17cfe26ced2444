"""Loss tables: what every prompt loses at every threshold, at the price of a few passes.

Each prompt is encoded once. Thresholds are taken from the highest on, and with a strict "confidence > λ" a
text decoded at λ is the text at every lower threshold down to the highest confidence that did not exit: it is
copied there. Once no δ can still be certified further down, the rest of the grid is left out. Exact drafts
write the text of full depth in their precision, which is decoded once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from early_exit import DecodingSetting, ExitPolicy
from early_exit.linear import has_native
from early_exit.models.effective_generation import evaluation_options
from early_exit.models.engines import engine_for
from early_exit.models.hashes import json_hash
from early_exit.models.sources import Source, encode_all
from early_exit.models.stream import decode_prompts
from trainers.generation import GenerationTrainer

# Confidences are float32 and divided by the threshold's decay: closer than this to λ, a text is decoded anew.
_ROUNDING = 1e-6
_SAMPLED = 16  # prompts that exact drafts are decoded for, to see how many layers they read


@dataclass(frozen=True)
class Text:
    """A decoded prompt. tokens: new ones with the end token; layers: mean decoder layers a token;
    max_stay_confidence: the highest confidence that did not exit, comparable with λ."""

    tokens: list[int]
    layers: float
    max_stay_confidence: float


@dataclass(frozen=True)
class Column:
    """One threshold of a loss table: losses, quality and layers, [prompts] each; decoded: how many prompts
    were decoded for it, now or by another calibration, the others are copies."""

    losses: list[float]
    quality: list[float]
    layers: list[float]
    decoded: int


class PromptDecoder:
    """Decodes this process's share of the prompts, whose sources are encoded once for each precision."""

    def __init__(self, model, arguments, dataset):
        """arguments: `Seq2SeqTrainingArguments`, of batch size and decoding limits; dataset: rows of
        `input_ids`. keeps_full_depth: whether exact drafts write full depth's texts by construction."""
        self._model = model
        self.indices = list(range(arguments.process_index, len(dataset), arguments.world_size))
        self._sources = [Source.of(torch.tensor(dataset[index]["input_ids"])) for index in self.indices]
        self._rows, self._options = arguments.eval_batch_size, evaluation_options(arguments)
        self._states: dict[str, list[Tensor]] = {}
        self._model.eval()
        # Other kernels round by the size of a block, and may decide a near tie differently.
        self.keeps_full_depth = has_native(model.device)

    def decode(self, wanted: Sequence[int], policy: ExitPolicy, precision: str) -> list[Text]:
        """Texts of some of its prompts, by their number among `indices`."""
        states = self._encoded(precision)
        texts = decode_prompts(
            self._model,
            policy,
            precision,
            [self._sources[number] for number in wanted],
            self._rows,
            self._options,
            states=[states[number] for number in wanted],
        )
        return [
            Text(row.tokens, row.layers_read / max(1, len(row.tokens)), row.max_stay_confidence)
            for row in texts.rows
        ]

    def _encoded(self, precision: str) -> list[Tensor]:
        """Encoder states [length, d_model] of every prompt."""
        if precision not in self._states:
            encoder = engine_for(self._model, ExitPolicy(), precision).encoder
            self._states[precision] = encode_all(encoder, self._sources, self._rows, self._model.device)
        return self._states[precision]


class TextStore(Protocol):
    """Keeps JSON values by keys; `util.decoded_texts.DecodedTexts` is one."""

    def find(self, keys: Sequence[str]) -> dict[str, Any]:
        """Values of those keys that there are."""
        ...

    def add(self, values: Mapping[str, Any]) -> None:
        """Keeps values."""
        ...


@dataclass(frozen=True)
class Kept:
    """Where texts are kept. pipeline: of a setting, a hash of all that texts depend on beside the prompt."""

    store: TextStore
    pipeline: Callable[[DecodingSetting], str]


class KeptPromptDecoder(PromptDecoder):
    """Decodes what a store does not hold yet, and adds it."""

    def __init__(self, model, arguments, dataset, kept: Kept):
        super().__init__(model, arguments, dataset)
        self._kept = kept

    def decode(self, wanted: Sequence[int], policy: ExitPolicy, precision: str) -> list[Text]:
        pipeline = self._kept.pipeline(DecodingSetting(policy, precision))
        keys = [json_hash([pipeline, self._sources[number].tokens.tolist()], length=32) for number in wanted]
        known = self._kept.store.find(keys)
        missing = {key: number for key, number in zip(keys, wanted, strict=True) if key not in known}
        if missing:
            texts = super().decode(list(missing.values()), policy, precision)
            new = {key: asdict(text) for key, text in zip(missing, texts, strict=True)}
            self._kept.store.add(new)
            known |= new
        return [Text(**known[key]) for key in keys]


# Loss and quality of a prompt, from its number, its early and its full text.
Score = Callable[[int, list[int], list[int]], tuple[float, float]]


class LossTable:
    """The columns of a loss table, built in turn, one for each setting.

    full: tokens that losses compare with, of this process's prompts.
    """

    def __init__(self, decoder: PromptDecoder, score: Score, full: Sequence[list[int]] | None = None):
        """full: of all prompts; by default the model writes them, exits off, in float32."""
        self._decoder, self._score = decoder, score
        self._everyone = range(len(decoder.indices))
        self._full_depth: dict[DecodingSetting, list[Text]] = {}
        if full is None:
            self.full = [text.tokens for text in self._at_full_depth(DecodingSetting())]
        else:
            self.full = [full[index] for index in decoder.indices]
        self._texts: list[Text | None] = [None] * len(decoder.indices)
        self._decoded_at = [0.0] * len(decoder.indices)  # thresholds, of the texts
        self._chain: DecodingSetting | None = None

    def column(self, setting: DecodingSetting) -> Column:
        """Decodes a setting. Copies texts of the last one where it differs by the threshold alone and they
        were decoded at a higher one; of exact drafts, whose texts are known, decodes a sample."""
        if setting == DecodingSetting():
            texts = self._at_full_depth(setting)
            return self._scored(texts, len(texts))
        exact = setting.policy.verify == "exact" and self._decoder.keeps_full_depth
        if exact and (column := self._exact(setting)) is not None:
            return column
        policy, precision = setting.policy, setting.precision
        chain = DecodingSetting(replace(policy, threshold=0.0), precision)
        if chain != self._chain:
            self._texts, self._chain = [None] * len(self._texts), chain
        changed = [
            number
            for number, text in enumerate(self._texts)
            if text is None
            or policy.threshold > self._decoded_at[number]
            or text.max_stay_confidence > policy.threshold - _ROUNDING
        ]
        for number, text in zip(changed, self._decoder.decode(changed, policy, precision), strict=True):
            self._texts[number], self._decoded_at[number] = text, policy.threshold
        return self._scored(self._texts, len(changed))

    def _exact(self, setting: DecodingSetting) -> Column | None:
        """Losses of full depth in the setting's precision, with its shortlist if that holds there too and its
        screen, whose texts are decoded once; layers of a sample. None where texts of the sample are
        others."""
        policy = setting.policy
        size = policy.shortlist if policy.shortlist_at_full_depth else None
        # A screen answers for the head in float32, which in float32 changes nothing.
        screen = policy.screen and setting.precision != "float32"
        deep = ExitPolicy(screen=screen, shortlist=size, shortlist_at_full_depth=size is not None)
        deepest = DecodingSetting(deep, setting.precision)
        known = deepest in self._full_depth
        full, sample = self._at_full_depth(deepest), self._everyone[:_SAMPLED]
        drafted = self._decoder.decode(sample, setting.policy, setting.precision)
        if not all(_of_all_processes([text.tokens for text in drafted] == [full[i].tokens for i in sample])):
            return None
        layers = sum(text.layers for text in drafted) / max(1, len(drafted))
        return self._scored(
            [replace(text, layers=layers) for text in full], len(sample) + (0 if known else len(full))
        )

    def _at_full_depth(self, setting: DecodingSetting) -> list[Text]:
        """Texts without exits, decoded once."""
        if setting not in self._full_depth:
            texts = self._decoder.decode(self._everyone, setting.policy, setting.precision)
            self._full_depth[setting] = texts
        return self._full_depth[setting]

    def _scored(self, texts: Sequence[Text], decoded: int) -> Column:
        rows = [
            (index, *self._score(index, text.tokens, full), text.layers)
            for index, text, full in zip(self._decoder.indices, texts, self.full, strict=True)
        ]
        return _together(rows, decoded)


def _of_all_processes(own: Any) -> list[Any]:
    """What each process has."""
    if not torch.distributed.is_initialized():
        return [own]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, own)
    return values


def full_texts(model, arguments, dataset) -> list[list[int]]:
    """Tokens that a model writes at full depth in float32 for all prompts, of all processes; arguments as of
    `PromptDecoder`."""
    decoder = PromptDecoder(model, arguments, dataset)
    texts = decoder.decode(range(len(decoder.indices)), ExitPolicy(), "float32")
    own = {index: text.tokens for index, text in zip(decoder.indices, texts, strict=True)}
    by_prompt = {index: tokens for share in _of_all_processes(own) for index, tokens in share.items()}
    return [by_prompt[index] for index in sorted(by_prompt)]


def loss_table(
    trainer: GenerationTrainer, dataset, score: Score, reference=None, kept: Kept | None = None
) -> LossTable:
    """Of a trainer's model on a dataset. reference: the model whose full-depth texts are compared with; None:
    the trainer's. kept: where texts are looked up before they are decoded, if anywhere."""
    full = None if reference is None else full_texts(reference, trainer.args, dataset)
    about = trainer.model, trainer.args, dataset
    decoder = PromptDecoder(*about) if kept is None else KeptPromptDecoder(*about, kept)
    return LossTable(decoder, score, full)


def _together(rows: list[tuple], decoded: int) -> Column:
    """A column from the rows (prompt, loss, quality, layers) of all processes, each prompt once."""
    shares = _of_all_processes((rows, decoded))
    decoded = sum(count for _, count in shares)
    by_prompt = {row[0]: row[1:] for share, _ in shares for row in share}
    losses, quality, layers = zip(*(by_prompt[prompt] for prompt in sorted(by_prompt)), strict=True)
    return Column(list(losses), list(quality), list(layers), decoded)


def as_array(columns: Sequence[Column | None], prompts: int) -> np.ndarray:
    """Losses [prompts, columns], NaN for columns that were not evaluated."""
    empty = [np.nan] * prompts
    return np.array([empty if column is None else column.losses for column in columns]).T
