"""`run_summarization.py --do_cali True`: from prompts to a verdict. Called by that entry point."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from early_exit import DecodingSetting
from models.calibrated import Certified
from models.calibration_file import CALIBRATION_FILE
from trainers.generation import GenerationSettings, GenerationTrainer
from trainers.loss_table import Column, LossTable, PromptDecoder, Score, as_array
from util.calibration_plan import CalibrationPlan
from util.dissimilarity import QUALITY, loss
from util.files import read_json, write_json
from util.run_folder import finish_sweep
from util.settings import sweep_settings
from util.verdict import Context, HeldOut, entry, naive_search, verdict
from util.words import without_words

LOSS_TABLE_FILE = "loss_table.json"
_NAIVE_SHARES = (0.9, 0.95)


@dataclass(frozen=True)
class Prompts:
    """Documents as tokens, a row each, and the summaries that they came with."""

    tokens: Dataset
    references: list[str]


def calibration_settings(model_args, data_args, exit_args, calibration, training) -> dict:
    """What the columns of a loss table share: it goes on where this is the same."""
    names = ("max_calibrate_samples", "consistency_type", "calibrate_loss")
    return sweep_settings(model_args, data_args, exit_args, training) | {
        **{name: getattr(calibration, name) for name in names},
        "exit_conf_type": exit_args.measures[0],
        "exit_position_temp": exit_args.exit_position_temp,
    }


def calibrate_exits(
    trainer: GenerationTrainer,
    prompts: dict[str, Prompts],
    plan: CalibrationPlan,
    pipeline: dict[str, Any],
    source: dict[str, Any],
) -> dict[str, Any]:
    """Builds the loss table, tests, checks on held-out prompts, prints a verdict for each δ, and writes
    calibration.json into the output folder. Returns what stands in it.

    prompts: `calibration`, and `held_out` if there are any. pipeline: of `util.pipeline`. source: of
    `util.results.provenance`.
    """
    context = Context(
        measure=plan.measure,
        consistency=plan.consistency,
        loss=plan.loss,
        pipeline=pipeline,
        num_layers=trainer.model.num_exits,
        settings=len(plan.settings),
        seed=plan.seed,
    )
    _print(trainer, str(plan))
    blank = _references_without_words(prompts)
    if plan.consistency == "risk" and any(blank.values()):
        counts = ", ".join(f"{count} of {name}" for name, count in blank.items())
        _print(trainer, f"  references without words, which show no loss of ROUGE: {counts}")
    table = _Table(trainer, prompts["calibration"], plan, source)
    table.build()
    check = _HeldOutCheck(trainer, prompts["held_out"], plan) if "held_out" in prompts else None
    entries = [_entry(delta, table, check, context) for delta in plan.deltas]
    result = {
        **asdict(context),
        "fingerprint": context.fingerprint,
        "exit_calibration": _deployed(entries, context),
        "deltas": entries,
        "naive": table.naive(),
        "references_without_words": blank,
        **source,
    }
    if trainer.is_world_process_zero():
        write_json(Path(trainer.args.output_dir) / CALIBRATION_FILE, result)
        finish_sweep(Path(trainer.args.output_dir))
    return result


def _references_without_words(prompts: dict[str, Prompts]) -> dict[str, int]:
    """How many references ROUGE cannot see, by the name of the prompts."""
    return {name: sum(map(without_words, each.references)) for name, each in prompts.items()}


def save_with_checkpoint(result: dict[str, Any], folder: Path) -> None:
    """calibration.json beside a checkpoint, whose configuration gets the certified setting for `generate`, in
    the place of an earlier one; or loses that where nothing was certified."""
    write_json(folder / CALIBRATION_FILE, result)
    config = read_json(folder / "config.json")
    config.pop("exit_calibration", None)
    if result["exit_calibration"] is not None:
        config["exit_calibration"] = result["exit_calibration"]
    write_json(folder / "config.json", config)


def _print(trainer: GenerationTrainer, text: str) -> None:
    if trainer.is_world_process_zero():
        print(text, flush=True)


def _entry(delta: float, table: "_Table", check: "_HeldOutCheck | None", context: Context) -> dict[str, Any]:
    """The verdict for a δ, printed."""
    plan, model = table.plan, table.trainer.model
    found = plan.certify(table.losses, table.layers, delta, model)
    setting = plan.settings[found.index or 0]
    result = entry(
        found,
        setting,
        check(setting) if check and found.certified else None,
        None if found.certified else plan.prompts_needed(table.columns[0].losses, delta),
        context,
    )
    _print(table.trainer, verdict(result, context))
    return result


def _deployed(entries: list[dict[str, Any]], context: Context) -> dict[str, Any] | None:
    """The first setting that was certified, as a model's configuration holds it."""
    found = next((each for each in entries if each["certified"]), None)
    if found is None:
        return None
    return Certified(
        setting=DecodingSetting.from_dict(found["setting"]),
        weights=context.pipeline["weights"],
        max_length=context.pipeline["max tokens"],
        generation=context.pipeline["generation"],
        delta=found["delta"],
        epsilon=found["epsilon"],
        loss=f"{context.consistency} {context.loss}",
        n=found["n"],
        fingerprint=context.fingerprint,
    ).to_dict()


def _score(prompts: Prompts, plan: CalibrationPlan, tokenizer) -> Score:
    """Loss and quality of texts."""
    quality = QUALITY.get(plan.loss, QUALITY["rouge"])

    def score(prompt: int, early: list[int], full: list[int]) -> tuple[float, float]:
        texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (early, full)]
        reference = prompts.references[prompt]
        return loss(plan.consistency, plan.loss, *texts, reference), quality(texts[0], reference)

    return score


class _Table:
    """The loss table of a run, saved after each column and read again when the run goes on."""

    def __init__(self, trainer: GenerationTrainer, prompts: Prompts, plan: CalibrationPlan, source: dict):
        self.trainer, self.plan = trainer, plan
        self._prompts, self._source = prompts, source
        self._file = Path(trainer.args.output_dir) / LOSS_TABLE_FILE
        self._saved = read_json(self._file, default={"columns": []})["columns"]
        self._known = {DecodingSetting.from_dict(each["setting"]): each for each in self._saved}
        self._builder: LossTable | None = None
        self.columns: list[Column | None] = [None] * len(plan.settings)
        self.full: Column | None = None

    @property
    def losses(self) -> np.ndarray:
        """[prompts, settings], NaN for columns that were not evaluated."""
        return as_array(self.columns, len(self.columns[0].losses))

    @property
    def layers(self) -> list[np.ndarray | None]:
        """[prompts] for each setting."""
        return [None if column is None else np.array(column.layers) for column in self.columns]

    def build(self) -> None:
        """Evaluates settings in turn; a single chain of thresholds only as far as any δ may be certified."""
        self.full = self._column(DecodingSetting())
        for number, setting in enumerate(self.plan.settings):
            self.columns[number] = self._column(setting)
            if self.plan.settled(self.losses):
                break

    def naive(self) -> list[dict]:
        """The lowest threshold within some share of the full model's quality, over the columns evaluated."""
        evaluated = [column for column in self.columns if column is not None]
        quality = np.array([column.quality for column in evaluated]).T
        result = []
        for share in _NAIVE_SHARES:
            place = naive_search(quality, np.array(self.full.quality), share)
            if place >= 0:
                losses = evaluated[place].losses
                threshold = self.plan.settings[place].policy.threshold
                mean = sum(losses) / len(losses)
                result.append({"share": share, "threshold": threshold, "mean_loss": mean})
        return result

    def _column(self, setting: DecodingSetting) -> Column:
        """From the file, or decoded now."""
        found = self._known.get(setting)
        if found is not None:
            return Column(**{name: found[name] for name in Column.__dataclass_fields__})
        if self._builder is None:
            score = _score(self._prompts, self.plan, self.trainer.processing_class)
            self._builder = LossTable(PromptDecoder(self.trainer, self._prompts.tokens), score)
        column = self._builder.column(setting)
        self._saved.append({"setting": setting.to_dict(), **asdict(column)})
        if self.trainer.is_world_process_zero():
            write_json(self._file, {"columns": self._saved, **self._source})
        return column


class _HeldOutCheck:
    """Losses, layers and speed of settings on prompts that calibration has not seen."""

    def __init__(self, trainer: GenerationTrainer, prompts: Prompts, plan: CalibrationPlan):
        self._trainer, self._tokens = trainer, prompts.tokens
        self._score = _score(prompts, plan, trainer.processing_class)
        self._synchronize = trainer.generation.synchronize
        self._full = self._predict(DecodingSetting())
        self._known: dict[DecodingSetting, HeldOut] = {}

    def __call__(self, setting: DecodingSetting) -> HeldOut:
        if setting not in self._known:
            early = self._predict(setting)
            pairs = zip(early.predictions, self._full.predictions, strict=True)
            self._known[setting] = HeldOut(
                losses=[self._score(number, *pair)[0] for number, pair in enumerate(pairs)],
                block_avg=early.metrics["held_out_block_avg"],
                speedup=early.metrics["held_out_tokens_per_second"]
                / self._full.metrics["held_out_tokens_per_second"],
            )
        return self._known[setting]

    def _predict(self, setting: DecodingSetting):
        self._trainer.generation = GenerationSettings(
            setting.policy, setting.precision, warm_up=True, synchronize=self._synchronize
        )
        return self._trainer.predict(self._tokens, metric_key_prefix="held_out")
