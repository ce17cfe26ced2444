"""Evaluation by generation: exact over processes, with exit layers, and a clock around generation only."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from early_exit import DecodedRow, ExitPolicy
from early_exit.adaptive import AdaptiveThreshold
from early_exit.models.adaptive_stream import decode_adaptive
from early_exit.models.sources import Source, Watch
from early_exit.models.stream import DecodedTexts, decode_prompts
from trainers.stable import StableTrainer
from trainers.timing import Slices, Stopwatch, speed

# What every evaluation by generation measures, beside `compute_metrics`. Heads and top-k add to these.
GENERATION_METRICS = (
    "block_avg", "gen_len", "tokens_per_second", "ms_per_token", "ms_per_token_p10", "ms_per_token_p90",
)  # fmt: skip


@dataclass(frozen=True)
class GenerationSettings:
    """How evaluation decodes.

    policy: where tokens leave, None for transformers' own decoding. precision: the engine's, see
    `EarlyExitMixin.generate`. adaptive: the threshold where it is learned, in the policy's place. warm_up:
    decode as many examples as a batch has once before the clock starts. synchronize: wait for the device
    before the clock is read.
    """

    policy: ExitPolicy | None = None
    precision: str | None = None
    warm_up: bool = False
    synchronize: bool = False
    adaptive: AdaptiveThreshold | None = None


@dataclass
class _Row:
    """One generated sequence: its place in the data set, the text, the labels."""

    index: int
    text: DecodedRow
    labels: list[int] | None


@dataclass
class _Share:
    """What one process decoded, with what there was to count of the LM head's reading."""

    rows: list[_Row]
    slices: Slices
    head_counts: Counter


class GenerationTrainer(StableTrainer):
    """A trainer whose `predict_with_generate` evaluation knows of exits.

    generation: `GenerationSettings`, may be replaced between evaluations; decoded: the texts of the latest
    one, in the order of its examples. `compute_metrics` receives
    an EvalPrediction of token lists, one a row, without start token and padding.

    Each process decodes its own examples, none twice, and the rows are put together before any
    statistic. Where decoding is plain greedy, `eval_batch_size` rows are kept full, see `models.stream`.
    There is no teacher-forced pass beside generation, hence no `eval_loss`; evaluation without
    `predict_with_generate` gives that.
    """

    def __init__(self, *args, generation: GenerationSettings | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.generation = generation or GenerationSettings()
        self.decoded: list[DecodedRow] = []

    def train(self, *args, **kwargs):
        evaluates = self.args.predict_with_generate and self.args.eval_strategy != "no"
        if evaluates and self.args.metric_for_best_model in ("loss", "eval_loss"):
            raise ValueError(
                "metric_for_best_model is the loss, which evaluation by generation does not compute; give "
                f"one of its metrics, such as {GENERATION_METRICS[0]}, or leave out predict_with_generate"
            )
        return super().train(*args, **kwargs)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        if not self.args.predict_with_generate:
            return super().evaluation_loop(dataloader, description, True, ignore_keys, metric_key_prefix)
        dataset = dataloader.dataset
        shares = [self._decode_own_share(dataset, description)]
        if self.args.world_size > 1:
            own, shares = shares[0], [None] * self.args.world_size
            torch.distributed.all_gather_object(shares, own)
        rows = sorted((row for share in shares for row in share.rows), key=lambda row: row.index)
        head_counts = sum((share.head_counts for share in shares), Counter())

        self.decoded = [row.text for row in rows]
        predictions = [text.tokens for text in self.decoded]
        labels = None if rows[0].labels is None else [row.labels for row in rows]
        metrics = _exit_statistics(rows, self.model.num_exits) | speed([share.slices for share in shares])
        metrics |= _head_statistics(head_counts)
        if self.generation.adaptive is not None:
            metrics["adapt_threshold"] = self._adapted.to_dict()
        if self.compute_metrics is not None and labels is not None:
            metrics |= self.compute_metrics(EvalPrediction(predictions=predictions, label_ids=labels))
        return EvalLoopOutput(
            predictions=predictions,
            label_ids=labels,
            metrics={f"{metric_key_prefix}_{name}": value for name, value in metrics.items()},
            num_samples=len(dataset),
        )

    def _decode_own_share(self, dataset: Dataset, description: str) -> "_Share":
        """Decodes this process's examples."""
        self._prepare_model()
        indices = list(range(self.args.process_index, len(dataset), self.args.world_size))
        examples = [self.data_collator([dataset[index]]) for index in indices]
        sources = [
            Source.of(example["input_ids"][0], _first(example.get("attention_mask"))) for example in examples
        ]
        if self.generation.warm_up:
            self._decode(sources[: self.args.eval_batch_size], Watch())
        silent = self.args.disable_tqdm or not self.is_local_process_zero()
        with tqdm(total=len(sources), desc=description, disable=silent) as progress:
            watch = Stopwatch(self._clock, progress.update)
            texts = self._decode(sources, watch)
        rows = [
            _Row(index, text, _labels(example))
            for index, text, example in zip(indices, texts.rows, examples, strict=True)
        ]
        return _Share(rows, watch.slices(), texts.counts)

    def _decode(self, sources: Sequence[Source], watch: Watch) -> DecodedTexts:
        settings, rows = self.generation, self.args.eval_batch_size
        options = {name: value for name, value in self._gen_kwargs.items() if value is not None}
        about = (self.model, settings.policy, settings.precision, sources, rows, options)
        if settings.adaptive is None:
            return decode_prompts(*about, watch=watch)
        texts, self._adapted = decode_adaptive(*about, settings.adaptive, watch)
        return texts

    def _prepare_model(self) -> None:
        self.model.eval()
        if not self.is_in_train and self.args.bf16_full_eval:
            self.model.to(self.args.device, torch.bfloat16)
        if not self.is_in_train and self.args.fp16_full_eval:
            self.model.to(self.args.device, torch.float16)
        self.model.exit_heads.float()  # they compute in float32 whatever the model is in

    def _clock(self) -> float:
        if self.generation.synchronize and self.args.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _first(batch: Tensor | None) -> Tensor | None:
    return None if batch is None else batch[0]


def _labels(example) -> list[int] | None:
    labels = example.get("labels")
    return None if labels is None else [token for token in labels[0].tolist() if token >= 0]


def _exit_statistics(rows: list[_Row], num_exits: int) -> dict:
    """gen_len: mean new tokens a row; block_avg: mean decoder layers run for a token, for dropped drafts too;
    exit_layer_counts: tokens that left at layers 1 to L. Of drafts: accept_rate, the share that stayed;
    tokens_per_block: tokens for each run through the deepest layer."""
    layers = [layer for row in rows for layer in row.text.exit_layers]
    statistics = {
        "gen_len": len(layers) / len(rows),
        "block_avg": sum(row.text.layers_run for row in rows) / max(1, len(layers)),
        "exit_layer_counts": [layers.count(layer) for layer in range(1, num_exits + 1)],
    }
    drafting = [row.text.drafting for row in rows if row.text.drafting is not None]
    if drafting:
        drafted, blocks = sum(each.drafted for each in drafting), sum(each.blocks for each in drafting)
        statistics["accept_rate"] = sum(each.accepted for each in drafting) / max(1, drafted)
        statistics["tokens_per_block"] = len(layers) / max(1, blocks)
    return statistics


def _head_statistics(counts: Counter) -> dict:
    """top_k_kept: share of tokens that top-k propagation has not changed. Of the questions to a screened LM
    head, screen_fell_back: the share for which all of it was computed; screen_candidates: the mean number of
    logits computed exactly for the others."""
    metrics = {}
    if counts["chosen"]:
        metrics["top_k_kept"] = counts["kept"] / counts["chosen"]
    if counts["asked"]:
        settled = counts["asked"] - counts["fell_back"]
        metrics["screen_fell_back"] = counts["fell_back"] / counts["asked"]
        metrics["screen_candidates"] = counts["candidates"] / max(1, settled)
    return metrics
