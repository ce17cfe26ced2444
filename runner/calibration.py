"""`--do_cali True`: from prompts to a verdict."""

import hashlib
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from early_exit import DecodingSetting
from early_exit.calibration import SEQUENTIAL_TESTS
from early_exit.models.calibrated import Certified
from early_exit.models.calibration_file import CALIBRATION_FILE
from runner.calibration_tables import CalibrationRun, HeldOutCheck, Prompts, SequentialTable, Table
from trainers.generation import GenerationTrainer
from util.calibration_plan import CalibrationPlan
from util.files import read_json, write_json
from util.ledger import Attempt, Ledger, attempt_id
from util.pipeline import certified_pipeline
from util.run_folder import finish_sweep
from util.verdict import Context, entry, verdict
from util.words import without_words


def calibrate_exits(
    run: CalibrationRun,
    held_out: Prompts | None,
    pipeline: dict[str, Any],
    ledger: Ledger,
    spends: bool,
) -> dict[str, Any]:
    """Builds the loss table, tests, checks on held-out prompts, prints a verdict for each δ, and writes
    calibration.json into the output folder. Returns what stands in it.

    held_out: prompts to check on, if there are any. pipeline: of `util.pipeline`. ledger: of earlier
    attempts; spends: whether they share ε.
    """
    trainer, own = run.trainer, run.prompts
    identity = run.plan.identity() | {"spends": spends}
    identity |= {"fingerprint": run.key["fingerprint"], "references": run.key["prompts"]}
    attempt = ledger.attempt(identity, own.hashes, run.plan.epsilon, spends)
    plan = replace(run.plan, epsilon=attempt.epsilon)
    run = replace(run, plan=plan)
    context = _context(plan, pipeline, attempt, own, trainer.model.num_exits)
    _print(trainer, str(plan))
    check_run = None if held_out is None else replace(run, prompts=held_out)
    blank = _references_without_words(run, check_run)
    if trainer.is_world_process_zero():
        ledger.start(identity, own.hashes, attempt)
    table, entries = _tested(run, check_run, context)
    result = {
        **asdict(context),
        "attempt_id": attempt_id(identity, own.hashes),
        "fingerprint": context.fingerprint,
        "exit_calibration": _deployed(entries, plan, context, trainer),
        "deltas": entries,
        "naive": table.naive(),
        "references_without_words": blank,
        **run.source,
    }
    if trainer.is_world_process_zero():
        _finish(Path(trainer.args.output_dir), result)
        outcome = ("delta", "certified", "threshold", "p_value")
        ledger.finish(identity, own.hashes, [{name: each[name] for name in outcome} for each in entries])
    return result


def _tested(
    run: CalibrationRun, check_run: CalibrationRun | None, context: Context
) -> tuple[Table | SequentialTable, list[dict[str, Any]]]:
    """What is known of the losses, and an entry for each δ."""
    table = (SequentialTable if run.plan.test in SEQUENTIAL_TESTS else Table)(run)
    table.build()
    check = None if check_run is None else HeldOutCheck(check_run)
    return table, [_entry(delta, table, check, context) for delta in run.plan.deltas]


def _keep_other(folder: Path, attempt: str) -> None:
    """The verdict of another attempt that is in the output folder, such as of another δ, gets a name of its
    own: what it certifies may be in use."""
    file = folder / CALIBRATION_FILE
    if not file.exists():
        return
    try:
        earlier = str(read_json(file)["attempt_id"])
    except (ValueError, TypeError, KeyError):  # of an earlier version, or no verdict
        earlier = hashlib.sha256(file.read_bytes()).hexdigest()
    if earlier != attempt:
        file.rename(folder / f"calibration-{earlier[:8]}.json")


def _finish(folder: Path, result: dict[str, Any]) -> None:
    _keep_other(folder, result["attempt_id"])
    write_json(folder / CALIBRATION_FILE, result)
    finish_sweep(folder)
    from util.report import write_report  # here, for matplotlib: a run that draws nothing starts earlier

    write_report(folder)


def _context(
    plan: CalibrationPlan, pipeline: dict[str, Any], attempt: Attempt, prompts: Prompts, num_layers: int
) -> Context:
    return Context(
        measure=plan.measure,
        consistency=plan.consistency,
        loss=plan.loss,
        pipeline=pipeline,
        num_layers=num_layers,
        settings=len(plan.settings),
        seed=plan.seed,
        promise=plan.promise,
        attempt=attempt,
        groups=dict(sorted(Counter(prompts.groups or []).items())),
        reference=plan.reference,
    )


def _references_without_words(run: CalibrationRun, held_out: CalibrationRun | None) -> dict[str, int]:
    """How many prompts have no reference that ROUGE can see, by the name of the prompts; printed where that
    matters."""
    runs = {"calibration": run} if held_out is None else {"calibration": run, "held_out": held_out}
    blank = {
        name: sum(all(map(without_words, references)) for references in each.prompts.references)
        for name, each in runs.items()
    }
    if (run.plan.consistency, run.plan.loss) == ("risk", "rouge") and any(blank.values()):
        counts = ", ".join(f"{count} of {name}" for name, count in blank.items())
        _print(run.trainer, f"  references without words, which show no loss of ROUGE: {counts}")
    return blank


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


def _entry(
    delta: float, table: Table | SequentialTable, check: HeldOutCheck | None, context: Context
) -> dict[str, Any]:
    """The verdict for a δ, printed."""
    found = table.certify(delta)
    setting = table.plan.settings[found.shown]
    result = entry(
        found,
        setting,
        check(setting) if check and found.certified else None,
        None if found.certified else table.prompts_needed(found),
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
        reference=None if plan.reference is None else plan.reference.name,
        promise=asdict(plan.promise),
    ).to_dict()
