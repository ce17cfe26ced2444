"""Evaluation by generation: exact over processes, with exit layers, and a clock around generation only."""

import time
from collections import Counter
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from early_exit import ExitPolicy
from models.generation import EarlyExitOutput
from trainers.stable import StableTrainer

# What every evaluation by generation measures, beside `compute_metrics`. Heads and top-k add to these.
GENERATION_METRICS = ("block_avg", "gen_len", "tokens_per_second", "ms_per_token")


@dataclass(frozen=True)
class GenerationSettings:
    """How evaluation decodes.

    policy: where tokens leave, None for transformers' own decoding. precision: the engine's, see
    `EarlyExitMixin.generate`. warm_up: decode the first batch
    once before the clock starts. synchronize: wait for the device before the clock is read.
    """

    policy: ExitPolicy | None = None
    precision: str | None = None
    warm_up: bool = False
    synchronize: bool = False


@dataclass
class _Row:
    """One generated sequence: its place in the data set, new tokens, their exit layers, the labels."""

    index: int
    tokens: list[int]
    exit_layers: list[int]
    labels: list[int] | None


class GenerationTrainer(StableTrainer):
    """A trainer whose `predict_with_generate` evaluation knows of exits.

    generation: `GenerationSettings`, may be replaced between evaluations. `compute_metrics` receives
    an EvalPrediction of token lists, one a row, without start token and padding.

    Each process decodes its own examples, none twice, and the rows are put together before any
    statistic. There is no teacher-forced pass beside generation, hence no `eval_loss`; evaluation
    without `predict_with_generate` gives that.
    """

    def __init__(self, *args, generation: GenerationSettings | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.generation = generation or GenerationSettings()

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
        shares = [self._generate_own_share(dataset, description)]
        if self.args.world_size > 1:
            own, shares = shares[0], [None] * self.args.world_size
            torch.distributed.all_gather_object(shares, own)
        rows = sorted((row for share, _, _ in shares for row in share), key=lambda row: row.index)
        process_seconds = [taken for _, taken, _ in shares]
        head_counts = sum((counts for _, _, counts in shares), Counter())

        predictions = [row.tokens for row in rows]
        labels = None if rows[0].labels is None else [row.labels for row in rows]
        metrics = _exit_statistics(rows, self.model.num_exits) | _speed(rows, process_seconds)
        metrics |= _head_statistics(head_counts)
        if self.compute_metrics is not None and labels is not None:
            metrics |= self.compute_metrics(EvalPrediction(predictions=predictions, label_ids=labels))
        return EvalLoopOutput(
            predictions=predictions,
            label_ids=labels,
            metrics={f"{metric_key_prefix}_{name}": value for name, value in metrics.items()},
            num_samples=len(dataset),
        )

    def _generate_own_share(self, dataset: Dataset, description: str) -> tuple[list[_Row], float, Counter]:
        """Decodes this process's examples. Returns the rows, the seconds spent generating, and what there was
        to count of the LM head's reading."""
        self._prepare_model()
        indices = list(range(self.args.process_index, len(dataset), self.args.world_size))
        batches = DataLoader(
            Subset(dataset, indices), batch_size=self.args.eval_batch_size, collate_fn=self.data_collator
        )
        rows, seconds, head_counts = [], 0.0, Counter()
        progress = tqdm(
            batches, description, disable=self.args.disable_tqdm or not self.is_local_process_zero()
        )
        for number, batch in enumerate(progress):
            batch = self._prepare_inputs(batch)
            labels = batch.pop("labels", None)
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            if number == 0 and self.generation.warm_up:
                self._generate(inputs)
            begin = self._clock()
            output = self._generate(inputs)
            seconds += self._clock() - begin
            head_counts += _counted(output)
            texts = self.without_padding(output.sequences, output.exit_layers)
            for place, (tokens, layers) in enumerate(texts):
                index = indices[number * self.args.eval_batch_size + place]
                row_labels = (
                    None if labels is None else [token for token in labels[place].tolist() if token >= 0]
                )
                rows.append(_Row(index, tokens, layers, row_labels))
        return rows, seconds, head_counts

    def _prepare_model(self) -> None:
        self.model.eval()
        if not self.is_in_train and self.args.bf16_full_eval:
            self.model.to(self.args.device, torch.bfloat16)
        if not self.is_in_train and self.args.fp16_full_eval:
            self.model.to(self.args.device, torch.float16)
        self.model.exit_heads.float()  # they compute in float32 whatever the model is in

    def _generate(self, inputs: dict) -> EarlyExitOutput:
        """A batch; of transformers' own decoding the sequences alone."""
        policy = self.generation.policy
        kwargs = {name: value for name, value in self._gen_kwargs.items() if value is not None}
        if policy is None:
            return EarlyExitOutput(self.model.generate(**inputs, **kwargs, exit_policy=None))
        return self.model.generate(
            **inputs,
            **kwargs,
            exit_policy=policy,
            engine_precision=self.generation.precision,
            return_dict_in_generate=True,
        )

    def _clock(self) -> float:
        if self.generation.synchronize and self.args.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def without_padding(self, sequences, exit_layers):
        """Pairs of new tokens (up to the end token, with it) and their exit layers, one a row."""
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        for place, sequence in enumerate(sequences[:, 1:].tolist()):
            length = next((at + 1 for at, token in enumerate(sequence) if token in ends), len(sequence))
            layers = [self.model.num_exits] * length
            yield sequence[:length], layers if exit_layers is None else exit_layers[place, :length].tolist()


def _exit_statistics(rows: list[_Row], num_exits: int) -> dict:
    """gen_len: mean new tokens a row; block_avg: mean decoder layers a token; exit_layer_counts:
    tokens that left at layers 1 to L."""
    layers = [layer for row in rows for layer in row.exit_layers]
    return {
        "gen_len": len(layers) / len(rows),
        "block_avg": sum(layers) / max(1, len(layers)),
        "exit_layer_counts": [layers.count(layer) for layer in range(1, num_exits + 1)],
    }


def _counted(output: EarlyExitOutput) -> Counter:
    counts = Counter(output.screen or {})
    if output.kept is not None:
        counts["kept"], counts["chosen"] = output.kept()
    return counts


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


def _speed(rows: list[_Row], process_seconds: list[float]) -> dict:
    """Over new tokens: ms_per_token of a process, tokens_per_second of all together."""
    tokens = max(1, sum(len(row.tokens) for row in rows))
    return {
        "tokens_per_second": tokens / max(process_seconds),
        "ms_per_token": 1000 * sum(process_seconds) / tokens,
    }
