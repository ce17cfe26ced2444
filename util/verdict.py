"""What a calibration found, in words that can be quoted, and as calibration.json."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from early_exit import DecodingSetting
from early_exit.calibration import (
    BOUNDS,
    Calibration,
    Promise,
    PromptsNeeded,
    knob_tests,
    test_named,
)
from early_exit.models.effective_generation import unlike_greedy
from util.calibration_plan import ReferenceModel, against
from util.dissimilarity import CONSISTENCY
from util.held_out import HeldOut
from util.ledger import Attempt
from util.pipeline import fingerprint_of

FULL_TEXT = "the full model's text, token for token"


@dataclass(frozen=True)
class Context:
    """What all verdicts of a run share. pipeline: what the guarantee is tied to, by name; layers: L;
    settings: how many were to be tested; seed: of the draw of prompts; promise: what is kept at most δ;
    attempt: on these prompts, see `util.ledger`; groups: prompts of each group that is promised for;
    reference: the model whose texts are compared with, None for the calibrated one."""

    measure: str
    consistency: str
    loss: str
    pipeline: dict[str, Any]
    num_layers: int
    settings: int
    seed: int
    promise: Promise = Promise()  # noqa: RUF009 # frozen
    attempt: Attempt | None = None
    groups: dict[str, int] = field(default_factory=dict)
    reference: ReferenceModel | None = None

    @property
    def fingerprint(self) -> str:
        """Of the pipeline."""
        return fingerprint_of(self.pipeline)

    @property
    def promised(self) -> str:
        """What is kept at most δ, in words."""
        label = CONSISTENCY[self.consistency][self.loss].label
        loss = f"{self.consistency} loss ({label}{against(self.reference)})"
        each = f" in each of the groups {', '.join(self.groups)}" if self.groups else ""
        return self.promise.words(loss) + each


def entry(
    calibration: Calibration,
    setting: DecodingSetting,
    held_out: HeldOut | None,
    needed: PromptsNeeded | None,
    context: Context,
) -> dict[str, Any]:
    """One δ of calibration.json. setting: what is certified, or the first one tested that exits; needed:
    prompts that it would take where nothing is certified."""
    found = asdict(calibration)
    checked = None if held_out is None else held_out.summary(calibration.delta, context.promise)
    return {
        **{name: found[name] for name in ("certified", "threshold", "delta", "epsilon", "bound", "test")},
        "only_full_depth": calibration.only_full_depth,
        "guarantee": context.promise.guarantee,
        "promised": FULL_TEXT if calibration.by_construction else context.promised,
        "by_construction": calibration.by_construction,
        "setting": setting.to_dict(),
        "measure": setting.policy.measure,
        "engine_precision": setting.precision,
        "exit_min_layer": setting.policy.min_layer,
        "top_propagation": setting.policy.top_k,
        "p_value": calibration.p_value,
        "n": calibration.n,
        "groups": context.groups,
        "seed": context.seed,
        "attempt": None if context.attempt is None else asdict(context.attempt),
        "mean_loss": calibration.mean_loss,
        "upper_bound": calibration.upper_bound,
        "step": calibration.step,
        "settings": calibration.steps or context.settings,
        "held_out": checked,
        "block_avg": None if held_out is None else held_out.block_avg,
        "speedup": None if held_out is None else held_out.speedup,
        "smallest_delta": None if calibration.certified else calibration.smallest_delta,
        "prompts_needed": None if needed is None else needed.n,
        "prompts_range": None if needed is None else asdict(needed),
        "fingerprint": context.fingerprint,
    }


def verdict(found: dict[str, Any], context: Context) -> str:
    """An entry in words."""
    lines = _certified(found, context) if found["certified"] else _not_certified(found, context)
    return "\n".join(lines)


def _not_certified(found: dict[str, Any], context: Context) -> list[str]:
    which, those = ": only full depth" if found["only_full_depth"] else ": full model", "setting that exits"
    if context.reference is not None:  # full depth is tested as any setting
        which, those = "", "setting"
    lines = [
        f"NOT CERTIFIED{which}. {context.measure}, no {those} keeps the {context.promised} ≤ "
        f"{found['delta']:g}{_confidence(found)}",
        f"  {_test(found, context)} · at the first {those}: mean loss {found['mean_loss']:.3f}",
    ]
    if found["smallest_delta"] is not None:
        lines[-1] += f"; smallest δ that would have passed: {found['smallest_delta']:.3f}, not promised now"
    return lines + _prompts(found, context)


def _prompts(found: dict[str, Any], context: Context) -> list[str]:
    """What is known of how many prompts δ would take."""
    needed, delta = found["prompts_range"], found["delta"]
    if needed is None:
        return []
    if needed["n"] is not None:
        high = "without end" if needed["high"] is None else str(needed["high"])
        low = needed["n"] if needed["low"] is None else needed["low"]
        whose = "" if needed["group"] is None else f", for group {needed['group']}"
        return [
            f"  δ = {delta:g} would take about {needed['n']} prompts for 9 chances in 10, were they all like "
            f"these (90% range: {low} to {high}{whose})"
        ]
    limit = context.promise.limit(delta)
    interval = f"its 95% interval is [{needed['mean_low']:.3f}, {needed['mean_high']:.3f}]"
    what = "its mean loss" if context.promise.guarantee == "mean" else "the mean risk behind the promise"
    what += "" if needed["group"] is None else f" in group {needed['group']}"
    if needed["mean_low"] > limit:
        return [f"  at that setting more prompts would not do: {what} is above {limit:.3g}, {interval}"]
    return [
        f"  whether more prompts would do there is not known: {what} may be below {limit:.3g}, {interval}"
    ]


def _leaves(found: dict[str, Any]) -> str:
    """Where tokens do."""
    static = found["setting"].get("static_layer")
    if found["measure"] is None:
        return f"every token after layer {static}"
    latest = "" if static is None else f", after layer {static} at the latest"
    return f"{found['measure']}, λ = {found['threshold']:g}{latest}"


def _known(found: dict[str, Any], knobs: str) -> list[str]:
    """Of a setting that cannot lose anything."""
    return [
        f"certified: {_leaves(found)}{knobs}: {FULL_TEXT}",
        f"  by construction, whatever δ (here {found['delta']:g}): full depth in {found['engine_precision']} "
        "checks every draft; no other setting that passed is faster",
    ]


def _certified(found: dict[str, Any], context: Context) -> list[str]:
    knobs = "" if found["top_propagation"] is None else f", K = {found['top_propagation']}"
    if found["test"] in knob_tests():
        knobs += f", {found['engine_precision']}"
    if found["test"] in knob_tests() and found["measure"] is not None:
        knobs += f", no exit before layer {max(1, found['exit_min_layer'])}"
    if found["setting"].get("shortlist") is not None:
        where = " at all layers" if found["setting"].get("shortlist_at_full_depth") else ""
        knobs += f", shortlist of {found['setting']['shortlist']} tokens{where}"
    knobs += _drafts(found["setting"])
    known = found["by_construction"]
    lines = [
        f"certified: {_leaves(found)}{knobs}: {context.promised} ≤ {found['delta']:g}{_confidence(found)}",
        f"  {_test(found, context)} · calibration mean loss {found['mean_loss']:.3f}",
    ]
    if known:
        lines = _known(found, knobs)
    elif not math.isnan(found["upper_bound"]):
        lines.append(
            f"  {_level(found)} upper bound {found['upper_bound']:.3f}, for this setting alone, as if "
            f"it had not "
            "been selected"
        )
    check = found["held_out"]
    if check is None:
        lines.append("  held out: no prompts were left to check with")
    else:
        lines += [
            f"  held out (n = {check['n']}, not used above): {check['mean']:.3f}, 95% interval "
            f"[{check['low']:.3f}, {check['high']:.3f}] · loss per prompt: p90 {check['p90']:.2f}, "
            f"max {check['max']:.2f}, {100 * check['share_above_delta']:.0f}% above {found['delta']:g}",
            *_by_group(check),
            f"  layers {found['block_avg']:.1f} of {context.num_layers} · {found['speedup']:.1f} times the "
            "tokens per second of full depth, measured",
        ]
    prompts = "any prompts" if known else "prompts like these"
    lines.append(
        f"  holds for {prompts} and this pipeline ({_pipeline(found, context)}; {context.fingerprint})"
    )
    return lines


def _by_group(check: dict[str, Any]) -> list[str]:
    """Of prompts that were held out, what each group loses."""
    each = [
        f"{name} (n = {group['n']}) {group['mean']:.3f} [{group['low']:.3f}, {group['high']:.3f}]"
        for name, group in check["groups"].items()
    ]
    return [f"  held out, by group: {', '.join(each)}"] if each else []


def _level(found: dict[str, Any]) -> str:
    return f"{100 * (1 - found['epsilon']):.3g}%"


def _confidence(found: dict[str, Any]) -> str:
    if found["guarantee"] == "expectation":
        return " on average over calibration draws and a new prompt: weaker than with a confidence"
    return f" with confidence {_level(found)} over calibration draws"


def _test(found: dict[str, Any], context: Context) -> str:
    """How it was tested, on what, and at which attempt."""
    if found["guarantee"] == "expectation":
        parts = ["conformal risk control"]
    else:
        place = f" step {found['step']} of {found['settings']}" if found["step"] is not None else ""
        names = [BOUNDS[found["bound"]].label] if found["bound"] in BOUNDS else []
        parts = [*names, f"{test_named(found['test']).label}{place}"]
    parts += [f"n = {found['n']}", f"seed {found['seed']}"]
    if context.groups:
        parts.append("of these " + ", ".join(f"{count} {name}" for name, count in context.groups.items()))
    if found["attempt"] is not None:
        parts.append(_attempt(found["attempt"]))
    return ", ".join(parts)


def _attempt(attempt: dict[str, Any]) -> str:
    words = f"attempt {attempt['number']} on these prompts"
    if attempt["number"] > 1:
        words += f" (all together may fail with probability {min(1.0, attempt['together']):.3g})"
    return words


def _drafts(setting: dict[str, Any]) -> str:
    """What becomes of tokens that left, of an entry's setting."""
    if setting.get("verify") is None:
        return ""
    verify, ratio, number = (setting[name] for name in ("verify", "accept_ratio", "max_draft"))
    deep = f"full depth in {setting['precision']}"
    if setting.get("shortlist_at_full_depth"):
        deep += ", of the shortlist"
    about = {"lenient": f" at {ratio:g}", "exact": f" (to {deep})"}.get(verify, "")
    return f", {verify} drafts{about}, at most {number} a block"


def _pipeline(found: dict[str, Any], context: Context) -> str:
    pipeline = {**context.pipeline, "precision": found["engine_precision"]}  # a knob, with --calibrate_grid
    if found["top_propagation"] is not None:
        pipeline["LM head"] = f"top-k {found['top_propagation']}"
    if found["setting"].get("shortlist") is not None:
        pipeline["LM head"] = f"shortlist of {found['setting']['shortlist']} tokens"
    hashes = ("weights", "tokenizer", "configuration", "exit head", "shortlist", "prefix tokens")
    pipeline = {name: value for name, value in pipeline.items() if name not in hashes}
    numerics = pipeline.pop("numerics", {})
    pipeline |= {name: value for name, value in numerics.items() if name != "precision"}
    pipeline |= unlike_greedy(pipeline.pop("generation"))
    return ", ".join(f"{name} {value}" for name, value in pipeline.items())
