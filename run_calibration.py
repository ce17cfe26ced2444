"""`run_summarization.py --do_cali True`: from prompts to a verdict. Called by that entry point."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from early_exit import DecodingSetting
from early_exit.calibration import SEQUENTIAL_TESTS, Calibration, PromptsNeeded
from early_exit.calibration.thresholds import first_exiting
from models.calibrated import Certified
from models.calibration_file import CALIBRATION_FILE
from trainers.generation import GenerationSettings, GenerationTrainer
from trainers.loss_table import Column, LossTable, PromptDecoder, Score, as_array
from trainers.sequential_table import LazyLosses
from util.calibration_plan import CalibrationPlan
from util.dissimilarity import QUALITY, loss
from util.files import read_json, write_json
from util.ledger import Ledger
from util.pipeline import certified_pipeline, fingerprint_of
from util.run_folder import finish_sweep
from util.settings import sweep_settings
from util.verdict import Context, HeldOut, entry, naive_search, verdict
from util.words import without_words

LOSS_TABLE_FILE = "loss_table.json"
_NAIVE_SHARES = (0.9, 0.95)
_SEQUENTIAL_FILE = "sequential.json"
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
        return hashlib.sha256(json.dumps(rows, default=list).encode()).hexdigest()[:16]


def calibration_settings(model_args, data_args, exit_args, calibration, training) -> dict:
    """What the columns of a loss table share: it goes on where this is the same."""
    names = ("max_calibrate_samples", "consistency_type", "calibrate_loss")
    shared = sweep_settings(model_args, data_args, exit_args, training)
    del shared["per_device_eval_batch_size"]  # a row's text does not depend on it
    return shared | {
        **{name: getattr(calibration, name) for name in names},
        "exit_position_temp": exit_args.exit_position_temp,
    }


def calibrate_exits(
    trainer: GenerationTrainer,
    prompts: dict[str, Prompts],
    plan: CalibrationPlan,
    pipeline: dict[str, Any],
    ledger: Ledger,
    spends: bool,
    source: dict[str, Any],
) -> dict[str, Any]:
    """Builds the loss table, tests, checks on held-out prompts, prints a verdict for each δ, and writes
    calibration.json into the output folder. Returns what stands in it.

    prompts: `calibration`, and `held_out` if there are any. pipeline: of `util.pipeline`. ledger: of earlier
    attempts; spends: whether they share ε. source: of `util.results.provenance`.
    """
    own = prompts["calibration"]
    identity = plan.identity() | {"fingerprint": fingerprint_of(pipeline), "references": own.identity()}
    attempt = ledger.attempt(identity, own.hashes, plan.epsilon, spends)
    plan = plan.with_epsilon(attempt.epsilon)
    context = Context(
        measure=plan.measure,
        consistency=plan.consistency,
        loss=plan.loss,
        pipeline=pipeline,
        num_layers=trainer.model.num_exits,
        settings=len(plan.settings),
        seed=plan.seed,
        promise=plan.promise,
        attempt=attempt,
        groups=dict(sorted(Counter(own.groups or []).items())),
    )
    _print(trainer, str(plan))
    blank = _references_without_words(prompts)
    if plan.consistency == "risk" and any(blank.values()):
        counts = ", ".join(f"{count} of {name}" for name, count in blank.items())
        _print(trainer, f"  references without words, which show no loss of ROUGE: {counts}")
    if trainer.is_world_process_zero():
        ledger.start(identity, own.hashes, attempt)
    key = {"fingerprint": context.fingerprint, "prompts": own.identity()}
    one_by_one = plan.test in SEQUENTIAL_TESTS
    table = (_SequentialTable if one_by_one else _Table)(trainer, own, plan, key, source)
    table.build()
    check = _HeldOutCheck(trainer, prompts["held_out"], plan) if "held_out" in prompts else None
    entries = [_entry(delta, table, check, context) for delta in plan.deltas]
    result = {
        **asdict(context),
        "fingerprint": context.fingerprint,
        "exit_calibration": _deployed(entries, plan, context, trainer),
        "deltas": entries,
        "naive": table.naive(),
        "references_without_words": blank,
        **source,
    }
    if trainer.is_world_process_zero():
        write_json(Path(trainer.args.output_dir) / CALIBRATION_FILE, result)
        finish_sweep(Path(trainer.args.output_dir))
        outcome = ("delta", "certified", "threshold", "p_value")
        ledger.finish(identity, own.hashes, [{name: each[name] for name in outcome} for each in entries])
    return result


def _references_without_words(prompts: dict[str, Prompts]) -> dict[str, int]:
    """How many references ROUGE cannot see, by the name of the prompts."""
    return {
        name: sum(all(map(without_words, references)) for references in each.references)
        for name, each in prompts.items()
    }


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
    found = table.certify(delta)
    setting = table.plan.settings[table.first_exiting() if found.index is None else found.index]
    result = entry(
        found,
        setting,
        check(setting) if check and found.certified else None,
        None if found.certified else table.prompts_needed(delta),
        context,
    )
    _print(table.trainer, verdict(result, context))
    return result


def _deployed(
    entries: list[dict[str, Any]], plan: CalibrationPlan, context: Context, trainer: GenerationTrainer
) -> dict[str, Any] | None:
    """The setting of the δ that was named before, as a model's configuration holds it; None where it was not
    certified: another δ that was is not what was promised."""
    found = next(each for each in entries if each["delta"] == plan.deploy_delta)
    if not found["certified"]:
        return None
    setting = DecodingSetting.from_dict(found["setting"])
    pipeline = certified_pipeline(context.pipeline, trainer.model, setting, trainer.args.device)
    return Certified(
        setting=setting,
        weights=pipeline["weights"],
        max_length=context.pipeline["max tokens"],
        generation=context.pipeline["generation"],
        delta=found["delta"],
        epsilon=None if plan.promise.guarantee == "expectation" else found["epsilon"],
        loss=f"{context.consistency} {context.loss}",
        n=found["n"],
        fingerprint=context.fingerprint,
        pipeline=pipeline,
        guarantee=found["promised"],
    ).to_dict()


def _score(prompts: Prompts, plan: CalibrationPlan, tokenizer) -> Score:
    """Loss and quality of texts."""
    quality = QUALITY.get(plan.loss, QUALITY["rouge"])

    def score(prompt: int, early: list[int], full: list[int]) -> tuple[float, float]:
        texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (early, full)]
        references = prompts.references[prompt]
        best = max(quality(texts[0], reference) for reference in references)
        return loss(plan.consistency, plan.loss, *texts, references), best

    return score


class _Table:
    """The loss table of a run, saved after each column and read again when the run goes on.

    key: pipeline and prompts, by hashes. Columns of a file with another key are not read.
    """

    def __init__(
        self, trainer: GenerationTrainer, prompts: Prompts, plan: CalibrationPlan, key: dict, source: dict
    ):
        self.trainer, self.plan = trainer, plan
        self._prompts, self._key, self._source = prompts, key, source
        self._file = Path(trainer.args.output_dir) / LOSS_TABLE_FILE
        file = read_json(self._file, default={})
        if any(file.get(name) != value for name, value in key.items()):
            file = {}
        self._saved, self._speeds = file.get("columns", []), file.get("speeds", [])
        self._known = {DecodingSetting.from_dict(each["setting"]): each for each in self._saved}
        self._builder: LossTable | None = None
        self.columns: list[Column | None] = [None] * len(plan.settings)
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
        self.full, exits = self._column(DecodingSetting()), self.trainer.model.num_exits
        for chain in self.plan.chains:
            for number in chain:
                self.columns[number] = self._column(self.plan.settings[number])
                if self.plan.settled(self.losses, chain, exits, self.groups):
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

    def first_exiting(self) -> int:
        """Of the settings that were evaluated."""
        return first_exiting(self.losses, self.plan.full_depth(self.trainer.model.num_exits))

    def prompts_needed(self, delta: float) -> PromptsNeeded | None:
        """For a δ that was not certified."""
        return self.plan.prompts_needed(self.losses, delta, self.trainer.model.num_exits)

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
        the first chain; cut_off says that the table ends there."""
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
            score = _score(self._prompts, self.plan, self.trainer.processing_class)
            self._builder = LossTable(PromptDecoder(self.trainer, self._prompts.tokens), score)
        column = self._builder.column(setting)
        self._saved.append({"setting": setting.to_dict(), **asdict(column)})
        self._write()
        return column

    def _write(self) -> None:
        if self.trainer.is_world_process_zero():
            found = {**self._key, "columns": self._saved, "speeds": self._speeds}
            write_json(self._file, {**found, **self._source})


class _SequentialTable:
    """What `_Table` is to a test that reads prompts one by one: it decodes no more of them than it needs, and
    keeps their losses in sequential.json to go on from."""

    def __init__(
        self, trainer: GenerationTrainer, prompts: Prompts, plan: CalibrationPlan, key: dict, source: dict
    ):
        self.trainer, self.plan, self._prompts = trainer, plan, prompts
        self._key, self._source = key | {"settings": [each.to_dict() for each in plan.settings]}, source
        self._file = Path(trainer.args.output_dir) / _SEQUENTIAL_FILE
        file = read_json(self._file, default={})
        same = all(file.get(name) == value for name, value in self._key.items())
        self.losses = file["losses"] if same else [[] for _ in plan.settings]

    def build(self) -> None:
        """Nothing: losses are decoded when they are asked for."""
        score = _score(self._prompts, self.plan, self.trainer.processing_class)
        self._lazy = LazyLosses(
            self.trainer, self._prompts.tokens, self.plan.settings, score, self.losses, self._write
        )

    def certify(self, delta: float) -> Calibration:
        """What passes for a δ."""
        return self.plan.certify_one_by_one(
            self._lazy, len(self._prompts.tokens), delta, self.trainer.model.num_exits
        )

    def first_exiting(self) -> int:
        """Of the settings."""
        deep = self.plan.full_depth(self.trainer.model.num_exits)
        return deep.index(False) if False in deep else 0

    def prompts_needed(self, delta: float) -> None:
        """It says when it has enough."""
        return None

    def naive(self) -> list[dict]:
        """There is no table to search."""
        return []

    def _write(self) -> None:
        if self.trainer.is_world_process_zero():
            write_json(self._file, {**self._key, "losses": self.losses, **self._source})


class _HeldOutCheck:
    """Losses, layers and speed of settings on prompts that calibration has not seen."""

    def __init__(self, trainer: GenerationTrainer, prompts: Prompts, plan: CalibrationPlan):
        self._trainer, self._tokens = trainer, prompts.tokens
        self._score = _score(prompts, plan, trainer.processing_class)
        self._full = predict(trainer, self._tokens, DecodingSetting())
        self._known: dict[DecodingSetting, HeldOut] = {}

    def __call__(self, setting: DecodingSetting) -> HeldOut:
        if setting not in self._known:
            early = predict(self._trainer, self._tokens, setting)
            pairs = zip(early.predictions, self._full.predictions, strict=True)
            self._known[setting] = HeldOut(
                losses=[self._score(number, *pair)[0] for number, pair in enumerate(pairs)],
                block_avg=early.metrics["held_out_block_avg"],
                speedup=early.metrics["held_out_tokens_per_second"]
                / self._full.metrics["held_out_tokens_per_second"],
            )
        return self._known[setting]


def predict(trainer: GenerationTrainer, tokens: Dataset, setting: DecodingSetting):
    """Texts and speed of some prompts, as deployed, of transformers' `predict`."""
    trainer.generation = GenerationSettings(
        setting.policy, setting.precision, warm_up=True, synchronize=trainer.generation.synchronize
    )
    return trainer.predict(tokens, metric_key_prefix="held_out")
