"""The losses that a calibration is about, on the prompts that it calibrates and checks with: decoded, saved,
and read again when a run goes on. `runner.calibration` builds on them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from early_exit import DecodingSetting
from early_exit.calibration import Calibration, PromptsNeeded
from early_exit.models.hashes import json_hash
from trainers.generation import GenerationSettings, GenerationTrainer
from trainers.loss_table import Column, Kept, LossTable, Score, as_array, full_texts, loss_table
from trainers.sequential_table import LazyLosses
from util.calibration_plan import CalibrationPlan
from util.dissimilarity import QUALITY, loss
from util.files import read_json, write_json
from util.held_out import HeldOut, naive_search
from util.run_folder import LOSS_TABLE_FILE, SEQUENTIAL_FILE
from util.run_texts import RunTexts

_NAIVE_SHARES = (0.9, 0.95)
_TIMED = 64  # prompts that rivals are timed on


@dataclass(frozen=True)
class Prompts:
    """Documents as tokens, a row each, with the summaries that each came with, hashes of the documents, and
    their groups, if there are any."""

    tokens: Dataset
    references: list[list[str]]
    hashes: list[str]
    groups: list[str] | None = None

    def identity(self) -> str:
        """A hash of prompts and references: of another text there is another."""
        rows = [self.tokens["input_ids"], self.references, self.groups]
        return json_hash([each if each is None else list(each) for each in rows])


def score_of(prompts: Prompts, plan: CalibrationPlan, tokenizer) -> Score:
    """Loss and quality of texts."""
    quality = QUALITY.get(plan.loss, QUALITY["rouge"])

    def score(prompt: int, early: list[int], full: list[int]) -> tuple[float, float]:
        texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (early, full)]
        references = prompts.references[prompt]
        best = max(quality(texts[0], reference) for reference in references)
        return loss(plan.consistency, plan.loss, *texts, references), best

    return score


@dataclass(frozen=True)
class CalibrationRun:
    """What losses are measured on, and where they are kept.

    key: pipeline, prompts and reference model, by hashes: what a file of the output folder with another key
    holds is not read. source: of `util.results.provenance`. reference: the model whose full-depth texts are
    compared with; None: the trainer's own. kept: where decoded texts are kept, if anywhere.
    """

    trainer: GenerationTrainer
    prompts: Prompts
    plan: CalibrationPlan
    key: dict[str, Any]
    source: dict[str, Any]
    reference: PreTrainedModel | None = None
    kept: Kept | None = None

    def table_of(self, numbers: range) -> LossTable:
        """The loss table of some prompts."""
        of_all = score_of(self.prompts, self.plan, self.trainer.processing_class)

        def score(prompt: int, early: list[int], full: list[int]) -> tuple[float, float]:
            return of_all(numbers[prompt], early, full)

        return loss_table(self.trainer, self.prompts.tokens.select(numbers), score, self.reference, self.kept)


class _SavedTable:
    """What a run knows of losses, in a file of the output folder that it goes on from."""

    def __init__(self, name: str, run: CalibrationRun, **more: Any):
        """name: of the file. more: what its losses depend on beside the run's key and the loss itself."""
        self._run, self.trainer, self.plan, self._prompts = run, run.trainer, run.plan, run.prompts
        self._file = Path(self.trainer.args.output_dir) / name
        loss = {"consistency": run.plan.consistency, "loss": run.plan.loss}
        self._key = {**run.key, **loss, **more}
        found = loss | read_json(self._file, default={})  # earlier versions did not name it
        self._found = found if all(found.get(name) == value for name, value in self._key.items()) else {}

    def _save(self, **values) -> None:
        if self.trainer.is_world_process_zero():
            write_json(self._file, {**self._key, **values, **self._run.source})


class Table(_SavedTable):
    """The loss table of a run, saved after each column and read again when the run goes on."""

    def __init__(self, run: CalibrationRun):
        """Reads the file."""
        super().__init__(LOSS_TABLE_FILE, run)
        self._saved, self._speeds = self._found.get("columns", []), self._found.get("speeds", [])
        self._known = {DecodingSetting.from_dict(each["setting"]): each for each in self._saved}
        self._builder: LossTable | None = None
        self.columns: list[Column | None] = [None] * len(self.plan.settings)
        self.full: Column | None = None

    @property
    def losses(self) -> np.ndarray:
        """[prompts, settings], NaN for columns that were not evaluated."""
        return as_array(self.columns, len(self.full.losses))

    @property
    def groups(self) -> list[str] | None:
        """[prompts], or None."""
        return self._prompts.groups

    @property
    def layers(self) -> list[np.ndarray | None]:
        """[prompts] for each setting."""
        return [None if column is None else np.array(column.layers) for column in self.columns]

    def build(self) -> None:
        """Evaluates settings in turn; each chain of thresholds only as far as any δ may be certified."""
        self.full = self._column(DecodingSetting())
        for chain in self.plan.chains:
            for number in chain:
                self.columns[number] = self._column(self.plan.settings[number])
                if self.plan.settled(self.losses, chain, self.trainer.model, self.groups):
                    break

    def certify(self, delta: float) -> Calibration:
        """What passes for a δ. Where several chains have settings that do, the cheapest of each are timed,
        and the fastest is picked: all of them hold together."""
        arguments = (self.losses, self.layers, delta, self.trainer.model, self.groups)
        found = self.plan.certify(*arguments)
        rivals = self.plan.rivals(found, *arguments[1:2], self.trainer.model)
        if len(rivals) < 2:
            return found
        speeds = {number: self._speed(self.plan.settings[number]) for number in rivals}
        costs = [1 / speeds[number] if number in speeds else np.inf for number in range(len(self.columns))]
        return self.plan.certify(*arguments, costs=np.array(costs))

    def prompts_needed(self, found: Calibration) -> PromptsNeeded | None:
        """For a δ that was not certified, at the setting that is shown for it."""
        if self.plan.full_depth(self.trainer.model.num_exits)[found.shown]:
            return None  # nothing exits
        losses, model = self.losses[:, found.shown], self.trainer.model
        return self.plan.prompts_needed(losses, found.delta, model, self.groups)

    def _speed(self, setting: DecodingSetting) -> float:
        """Tokens per second on the first prompts, measured once and kept with the table."""
        for each in self._speeds:
            if DecodingSetting.from_dict(each["setting"]) == setting:
                return each["tokens_per_second"]
        tokens = self._prompts.tokens.select(range(min(_TIMED, len(self._prompts.tokens))))
        speed = predict(self.trainer, tokens, setting).metrics["held_out_tokens_per_second"]
        self._speeds.append({"setting": setting.to_dict(), "tokens_per_second": speed})
        self._write()
        return speed

    def naive(self) -> list[dict]:
        """The lowest threshold within some share of the full model's quality, over the columns evaluated of
        the first chain; cut_off says that the table ends there. Nothing where a static layer ends it."""
        if self.plan.settings[0].policy.static_layer is not None:
            return []
        evaluated = [self.columns[number] for number in self.plan.chains[0]]
        evaluated = [column for column in evaluated if column is not None]
        quality = np.array([column.quality for column in evaluated]).T
        result = []
        for share in _NAIVE_SHARES:
            place = naive_search(quality, np.array(self.full.quality), share)
            if place >= 0:
                losses = evaluated[place].losses
                threshold = self.plan.settings[place].policy.threshold
                mean = sum(losses) / len(losses)
                # The last column that was evaluated, and more to come: lower ones might do as well.
                cut_off = place == len(evaluated) - 1 and len(evaluated) < len(self.plan.chains[0])
                found = {"share": share, "threshold": threshold, "mean_loss": mean, "cut_off": cut_off}
                result.append(found)
        return result

    def _column(self, setting: DecodingSetting) -> Column:
        """From the file, or decoded now."""
        found = self._known.get(setting)
        if found is not None:
            return Column(**{name: found[name] for name in Column.__dataclass_fields__})
        if self._builder is None:
            self._builder = self._run.table_of(range(len(self._prompts.tokens)))
        column = self._builder.column(setting)
        self._saved.append({"setting": setting.to_dict(), **asdict(column)})
        self._write()
        return column

    def _write(self) -> None:
        self._save(columns=self._saved, speeds=self._speeds)


class SequentialTable(_SavedTable):
    """What `Table` is to a test that reads prompts one by one: it decodes no more of them than it needs, and
    keeps their losses in sequential.json to go on from."""

    def __init__(self, run: CalibrationRun):
        """Reads the file."""
        settings = [each.to_dict() for each in run.plan.settings]
        super().__init__(SEQUENTIAL_FILE, run, settings=settings)
        self.losses = self._found.get("losses") or [[] for _ in settings]

    def build(self) -> None:
        """Nothing: losses are decoded when they are asked for."""
        arguments = self.trainer.args
        self._lazy = LazyLosses(
            self._run.table_of,
            len(self._prompts.tokens),
            arguments.eval_batch_size * arguments.world_size,
            self.plan.settings,
            self.losses,
            self._write,
        )

    def certify(self, delta: float) -> Calibration:
        """What passes for a δ."""
        return self.plan.certify_one_by_one(
            self._lazy, len(self._prompts.tokens), delta, self.trainer.model.num_exits
        )

    def prompts_needed(self, found: Calibration) -> None:
        """It says when it has enough."""
        return None

    def naive(self) -> list[dict]:
        """There is no table to search."""
        return []

    def _write(self) -> None:
        self._save(losses=self.losses)


class HeldOutCheck:
    """Losses, layers and speed of settings on prompts that calibration has not seen."""

    def __init__(self, run: CalibrationRun):
        """run: with the prompts to check on."""
        trainer = self._trainer = run.trainer
        self._tokens = run.prompts.tokens
        self._score = score_of(run.prompts, run.plan, trainer.processing_class)
        self._full = predict(trainer, self._tokens, DecodingSetting())
        written, losses = trainer.decoded, None
        if run.reference is None:
            self._compared = self._full.predictions
        else:
            self._compared = full_texts(run.reference, trainer.args, self._tokens)
            losses = self._losses(self._full)
        self._groups = run.prompts.groups
        self._texts = RunTexts(trainer, self._tokens)
        self._texts.add(DecodingSetting(), written, losses)
        self._known: dict[DecodingSetting, HeldOut] = {}

    def __call__(self, setting: DecodingSetting) -> HeldOut:
        if setting not in self._known:
            early = predict(self._trainer, self._tokens, setting)
            losses = self._losses(early)
            self._texts.add(setting, self._trainer.decoded, losses)
            self._known[setting] = HeldOut(
                losses=losses,
                block_avg=early.metrics["held_out_block_avg"],
                speedup=early.metrics["held_out_tokens_per_second"]
                / self._full.metrics["held_out_tokens_per_second"],
                groups=self._groups,
            )
        return self._known[setting]

    def _losses(self, output) -> list[float]:
        """Of what `predict` returns."""
        pairs = zip(output.predictions, self._compared, strict=True)
        return [self._score(number, *pair)[0] for number, pair in enumerate(pairs)]


def predict(trainer: GenerationTrainer, tokens: Dataset, setting: DecodingSetting):
    """Texts and speed of some prompts, as deployed, of transformers' `predict`."""
    trainer.generation = GenerationSettings(
        setting.policy, setting.precision, warm_up=True, synchronize=trainer.generation.synchronize
    )
    return trainer.predict(tokens, metric_key_prefix="held_out")
