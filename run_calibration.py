"""`run_summarization.py --do_cali True`: from prompts to a verdict. Called by that entry point."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from early_exit import ExitPolicy
from early_exit.bounds import upper_bound
from early_exit.calibration import Calibration, calibrate, pareto_split, pareto_test, prompts_needed
from models.calibrated import certified_setting, policy_values
from models.decoding_cost import bytes_per_token
from models.exit_heads import fingerprint
from trainers.generation import GenerationSettings, GenerationTrainer
from trainers.loss_table import Column, LossTable, PromptDecoder, as_array
from util.arguments import DataArguments, ExitArguments, ModelArguments
from util.calibration_arguments import CalibrationArguments
from util.data import tokenize
from util.dissimilarity import QUALITY, loss
from util.errors import UsageError
from util.files import read_json, write_json
from util.run_folder import finish_sweep
from util.settings import sweep_settings
from util.verdict import Context, HeldOut, entry, naive_search, verdict

LOSS_TABLE_FILE = "loss_table.json"
_RESULT_FILE = "calibration.json"
_NAIVE_SHARES = (0.9, 0.95)
Setting = tuple[ExitPolicy, str]  # with the precision


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
    tokenizer,
    texts: dict,
    model_args: ModelArguments,
    data_args: DataArguments,
    exit_args: ExitArguments,
    calibration: CalibrationArguments,
    source: dict,
) -> None:
    """Builds the loss table, tests, checks on held-out prompts, prints a verdict for each δ, and writes
    calibration.json into the output folder and beside the checkpoint."""
    settings, is_main = _settings(exit_args, calibration), trainer.is_world_process_zero()
    context = Context(
        measure=exit_args.measures[0],
        consistency=calibration.consistency_type,
        loss=calibration.calibrate_loss,
        pipeline=_pipeline(trainer, tokenizer, data_args, exit_args),
        num_layers=trainer.model.num_exits,
        settings=len(settings),
        seed=trainer.args.seed,
    )
    if is_main:
        print(_plan(calibration, settings, context), flush=True)
    tokens = {
        name: tokenize(examples, tokenizer, data_args, data_args.generation_length)
        for name, examples in texts.items()
    }
    score = _Score(tokenizer, calibration)
    table = _Table(trainer, tokens["calibration"], score.of(texts["calibration"]), source)
    table.build(settings, calibration)
    check = None
    if "held_out" in texts:
        check = _HeldOutCheck(trainer, tokens["held_out"], score.of(texts["held_out"]), exit_args)
    entries, best = [], None
    for delta in calibration.deltas:
        found = _test(trainer.model, table.columns, settings, delta, calibration)
        policy, precision = settings[found.index or 0]
        if found.certified and best is None:
            best = (policy, precision)
        entries.append(
            entry(
                found,
                {
                    "engine_precision": precision,
                    "exit_min_layer": policy.min_layer,
                    "top_propagation": policy.top_k,
                },
                check(policy, precision) if check and found.certified else None,
                _needed(table.columns[0], delta, calibration) if not found.certified else None,
                context,
            )
        )
        if is_main:
            print(verdict(entries[-1], context), flush=True)
    if is_main:
        naive = _naive(table, settings)
        result = {**asdict(context), "fingerprint": context.fingerprint, "deltas": entries, "naive": naive}
        write_json(Path(trainer.args.output_dir) / _RESULT_FILE, {**result, **source})
        if calibration.save_calibration:
            _leave_with_checkpoint({**result, **source}, best, trainer, model_args)
        finish_sweep(Path(trainer.args.output_dir))


def check_settings(model, exit_args: ExitArguments, calibration: CalibrationArguments) -> None:
    """Raises UsageError for settings that the model cannot have."""
    try:
        for policy, _ in _settings(exit_args, calibration):
            policy.check_vocabulary(model.config.vocab_size)
    except ValueError as error:
        raise UsageError(f"--calibrate_grid: {error}") from error


def _settings(exit_args: ExitArguments, calibration: CalibrationArguments) -> list[Setting]:
    """Policies and precisions, a column each: thresholds fall, for each choice of knobs."""
    result = []
    for knobs in calibration.knobs:
        top_k = knobs.get("top_propagation", exit_args.propagated[0])
        for threshold in calibration.grid:
            policy = ExitPolicy(
                measure=exit_args.measures[0],
                threshold=threshold,
                min_layer=knobs.get("exit_min_layer", exit_args.exit_min_layer),
                position_temperature=exit_args.exit_position_temp,
                top_k=top_k,
                screen=exit_args.lm_head_screen and top_k is None,
            )
            result.append((policy, knobs.get("engine_precision", exit_args.engine_precision or "float32")))
    return result


def _pipeline(trainer, tokenizer, data_args: DataArguments, exit_args: ExitArguments) -> dict:
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return {
        "decoding": "greedy",
        "precision": exit_args.engine_precision or "float32",
        "LM head": "screened" if exit_args.lm_head_screen else "whole",
        "batch": trainer.args.eval_batch_size,
        "max tokens": trainer.args.generation_max_length,
        "source tokens": data_args.max_source_length,
        "prefix": repr(data_args.source_prefix or ""),
        "tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest()[:8],
        "weights": fingerprint(trainer.model),
    }


def _plan(calibration: CalibrationArguments, settings: list[Setting], context: Context) -> str:
    """All that is fixed before a loss is seen."""
    deltas = ", ".join(f"{delta:g}" for delta in calibration.deltas)
    order = " ".join(f"{policy.threshold:g}" for policy, _ in settings[: len(calibration.grid)])
    test = "pareto" if calibration.calibrate_grid else calibration.calibrate_test
    knobs = f" × {' '.join(calibration.calibrate_grid)}" if calibration.calibrate_grid else ""
    return (
        f"calibrating {context.measure}: {context.consistency} loss ({context.loss}), δ = {deltas}, ε = "
        f"{calibration.calibrate_epsilon:g}, {calibration.calibrate_bound}, {test}, seed {context.seed}\n"
        f"  thresholds in order: {order}{knobs}"
    )


class _Score:
    """Loss and quality of texts, for prompts with references."""

    def __init__(self, tokenizer, calibration: CalibrationArguments):
        self._tokenizer = tokenizer
        self._consistency, self._loss = calibration.consistency_type, calibration.calibrate_loss
        self._quality = QUALITY.get(self._loss, QUALITY["rouge"])

    def of(self, examples):
        """A `trainers.loss_table.Score` for these examples."""
        references = examples["summary"]

        def score(prompt: int, early: list[int], full: list[int]) -> tuple[float, float]:
            texts = [self._tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (early, full)]
            reference = references[prompt]
            value = loss(self._consistency, self._loss, *texts, reference)
            return value, self._quality(texts[0], reference)

        return score


class _Table:
    """The loss table of a run, saved after each column and read again when the run goes on."""

    def __init__(self, trainer: GenerationTrainer, tokens, score, source: dict):
        self._trainer, self._tokens, self._score, self._source = trainer, tokens, score, source
        self._file = Path(trainer.args.output_dir) / LOSS_TABLE_FILE
        self.columns: list[Column | None] = []
        self.full: Column | None = None

    def build(self, settings: list[Setting], calibration: CalibrationArguments) -> None:
        """Evaluates settings in turn; a single chain of thresholds only as far as any δ may be certified."""
        saved = read_json(self._file, default={"columns": []})["columns"]
        known = {json.dumps(each["setting"]): each for each in saved}
        table = None
        self.columns = [None] * len(settings)
        for number, setting in enumerate([(ExitPolicy(), "float32"), *settings]):
            key = _describe(setting)
            found = known.get(json.dumps(key))
            if found is None:
                if table is None:
                    table = LossTable(PromptDecoder(self._trainer, self._tokens), self._score)
                column = table.column(*setting)
                saved.append({"setting": key, **asdict(column)})
                if self._trainer.is_world_process_zero():
                    write_json(self._file, {"columns": saved, **self._source})
            else:
                column = Column(**{name: found[name] for name in Column.__dataclass_fields__})
            if number == 0:
                self.full = column
                continue
            self.columns[number - 1] = column
            if self._settled(settings, calibration):
                break

    def _settled(self, settings: list[Setting], calibration: CalibrationArguments) -> bool:
        """Whether no δ can be certified further down."""
        if calibration.calibrate_grid or calibration.calibrate_test != "fixed_sequence":
            return False
        thresholds = [policy.threshold for policy, _ in settings]
        evaluated = sum(column is not None for column in self.columns)
        return all(
            len(_calibrate(self.columns, thresholds, delta, calibration).accepted) < evaluated
            for delta in calibration.deltas
        )


def _describe(setting: Setting) -> dict:
    policy, precision = setting
    return {**policy_values(policy), "precision": precision}


def _calibrate(columns, thresholds, delta: float, calibration: CalibrationArguments) -> Calibration:
    table = as_array(columns, len(columns[0].losses))
    epsilon, bound, test = (
        calibration.calibrate_epsilon,
        calibration.calibrate_bound,
        calibration.calibrate_test,
    )
    return calibrate(table, thresholds, delta, epsilon, bound, test)


def _test(model, columns, settings, delta: float, calibration: CalibrationArguments) -> Calibration:
    """What passes for a δ: along the thresholds, or by Pareto testing where there are more knobs."""
    if not calibration.calibrate_grid:
        return _calibrate(columns, [policy.threshold for policy, _ in settings], delta, calibration)
    table = as_array(columns, len(columns[0].losses))
    costs = np.array(
        [
            bytes_per_token(model, policy, precision, np.array(column.layers))
            for column, (policy, precision) in zip(columns, settings, strict=True)
        ]
    ).T
    epsilon, bound = calibration.calibrate_epsilon, calibration.calibrate_bound
    chosen, order, p_values = pareto_test(table, costs, delta, epsilon, bound)
    place = order.index(chosen) if chosen is not None else 0
    tested = table[pareto_split(len(table)) :, order[place]]
    return Calibration(
        certified=chosen is not None,
        index=chosen,
        threshold=None if chosen is None else settings[chosen][0].threshold,
        delta=delta,
        epsilon=epsilon,
        bound=bound,
        test="pareto",
        n=len(tested),
        p_values=p_values,
        accepted=order[: place + 1] if chosen is not None else [],
        p_value=p_values[place],
        mean_loss=float(tested.mean()),
        upper_bound=upper_bound(tested, epsilon, bound),
    )


def _needed(column: Column, delta: float, calibration: CalibrationArguments) -> int | None:
    return prompts_needed(column.losses, delta, calibration.calibrate_epsilon, calibration.calibrate_bound)


class _HeldOutCheck:
    """Losses, layers and speed of settings on prompts that calibration has not seen."""

    def __init__(self, trainer: GenerationTrainer, tokens, score, exit_args: ExitArguments):
        self._trainer, self._tokens, self._score = trainer, tokens, score
        self._synchronize = exit_args.use_synchronize
        self._full = self._predict(ExitPolicy(), "float32")
        self._known: dict[str, HeldOut] = {}

    def __call__(self, policy: ExitPolicy, precision: str) -> HeldOut:
        key = json.dumps(_describe((policy, precision)))
        if key not in self._known:
            early = self._predict(policy, precision)
            pairs = zip(early.predictions, self._full.predictions, strict=True)
            self._known[key] = HeldOut(
                losses=[self._score(number, *pair)[0] for number, pair in enumerate(pairs)],
                block_avg=early.metrics["held_out_block_avg"],
                speedup=early.metrics["held_out_tokens_per_second"]
                / self._full.metrics["held_out_tokens_per_second"],
            )
        return self._known[key]

    def _predict(self, policy: ExitPolicy, precision: str):
        self._trainer.generation = GenerationSettings(
            policy, precision, warm_up=True, synchronize=self._synchronize
        )
        return self._trainer.predict(self._tokens, metric_key_prefix="held_out")


def _naive(table: _Table, settings: list[Setting]) -> list[dict]:
    """The lowest threshold within some share of the full model's quality, over the columns evaluated."""
    evaluated = [column for column in table.columns if column is not None]
    quality = np.array([column.quality for column in evaluated]).T
    result = []
    for share in _NAIVE_SHARES:
        place = naive_search(quality, np.array(table.full.quality), share)
        if place >= 0:
            losses = evaluated[place].losses
            threshold = settings[place][0].threshold
            result.append({"share": share, "threshold": threshold, "mean_loss": sum(losses) / len(losses)})
    return result


def _leave_with_checkpoint(result: dict, best: Setting | None, trainer, model_args) -> None:
    """calibration.json beside a local checkpoint, whose configuration gets the first setting that was
    certified, for `generate`."""
    folder = Path(model_args.model_name_or_path)
    if not (folder / "config.json").is_file():
        return
    write_json(folder / _RESULT_FILE, result)
    config = read_json(folder / "config.json")
    config.pop("exit_calibration", None)
    if best is not None:
        longest = trainer.args.generation_max_length
        config["exit_calibration"] = certified_setting(*best, longest, trainer.model)
    write_json(folder / "config.json", config)
