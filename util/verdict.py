"""What a calibration found, in words that can be quoted, and as calibration.json."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from early_exit import DecodingSetting
from early_exit.calibration import BOUNDS, TESTS, Calibration
from models.effective_generation import unlike_greedy
from util.dissimilarity import CONSISTENCY


@dataclass(frozen=True)
class HeldOut:
    """Losses [n] of prompts that calibration did not see, with layers and speed measured on them.

    speedup: tokens per second over those of the full model; None where there was nothing to check with.
    """

    losses: list[float]
    block_avg: float
    speedup: float

    def summary(self, delta: float) -> dict[str, float]:
        """n, mean with its 95% interval (normal approximation within [0, 1]), and the spread of prompts."""
        losses = np.array(self.losses)
        mean = float(losses.mean())
        margin = 1.96 * float(losses.std(ddof=1)) / math.sqrt(len(losses))
        return {
            "n": len(losses),
            "mean": mean,
            "low": max(0.0, mean - margin),
            "high": min(1.0, mean + margin),
            "p90": float(np.quantile(losses, 0.9)),
            "max": float(losses.max()),
            "share_above_delta": float((losses > delta).mean()),
        }


@dataclass(frozen=True)
class Context:
    """What all verdicts of a run share. pipeline: what the guarantee is tied to, by name; layers: L;
    settings: how many were to be tested; seed: of the draw of prompts."""

    measure: str
    consistency: str
    loss: str
    pipeline: dict[str, Any]
    num_layers: int
    settings: int
    seed: int

    @property
    def fingerprint(self) -> str:
        """Of the pipeline."""
        text = json.dumps(self.pipeline, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def entry(
    calibration: Calibration,
    setting: DecodingSetting,
    held_out: HeldOut | None,
    needed: int | None,
    context: Context,
) -> dict[str, Any]:
    """One δ of calibration.json. setting: what is certified, or the first one tested; needed: prompts that it
    would take where nothing is certified."""
    found = asdict(calibration)
    return {
        **{name: found[name] for name in ("certified", "threshold", "delta", "epsilon", "bound", "test")},
        "setting": setting.to_dict(),
        "engine_precision": setting.precision,
        "exit_min_layer": setting.policy.min_layer,
        "top_propagation": setting.policy.top_k,
        "p_value": calibration.p_value,
        "n": calibration.n,
        "seed": context.seed,
        "mean_loss": calibration.mean_loss,
        "upper_bound": calibration.upper_bound,
        "step": None if calibration.index is None else calibration.index + 1,
        "settings": context.settings,
        "held_out": None if held_out is None else held_out.summary(calibration.delta),
        "block_avg": None if held_out is None else held_out.block_avg,
        "speedup": None if held_out is None else held_out.speedup,
        "smallest_delta": calibration.upper_bound if not calibration.certified else None,
        "prompts_needed": needed,
        "fingerprint": context.fingerprint,
    }


def verdict(found: dict[str, Any], context: Context) -> str:
    """An entry in words."""
    level = f"{100 * (1 - found['epsilon']):g}%"
    what = f"{context.consistency} loss ({CONSISTENCY[context.consistency][context.loss].label})"
    test = f"{BOUNDS[found['bound']].label}, {TESTS[found['test']].label}"
    if not found["certified"]:
        smallest = f"smallest δ that it could be certified for: {found['smallest_delta']:.3f}"
        lines = [
            f"NOT CERTIFIED: full model. {context.measure}, no setting keeps the mean {what} "
            f"≤ {found['delta']:g} with confidence {level}",
            f"  {test}, n = {found['n']}, seed {found['seed']} · at the first setting: mean "
            f"{found['mean_loss']:.3f}; {smallest}",
        ]
        needed = found["prompts_needed"]
        if needed is None:
            lines.append("  no number of such prompts would do: the mean itself is not below δ")
        else:
            lines.append(f"  δ = {found['delta']:g} would take about {needed} such prompts")
        return "\n".join(lines)
    knobs = "" if found["top_propagation"] is None else f", K = {found['top_propagation']}"
    if TESTS[found["test"]].several_knobs:
        knobs += f", {found['engine_precision']}, no exit before layer {max(1, found['exit_min_layer'])}"
    knobs += _drafts(found["setting"])
    step = f"step {found['step']} of {found['settings']}"
    lines = [
        f"certified: {context.measure}, λ = {found['threshold']:g}{knobs}: mean {what} ≤ {found['delta']:g} "
        f"with confidence {level} over calibration draws",
        f"  {test} {step}, n = {found['n']}, seed {found['seed']} · calibration mean "
        f"{found['mean_loss']:.3f}, {level} upper bound {found['upper_bound']:.3f}",
    ]
    check = found["held_out"]
    if check is None:
        lines.append("  held out: no prompts were left to check with")
    else:
        lines += [
            f"  held out (n = {check['n']}, not used above): mean {check['mean']:.3f} "
            f"[{check['low']:.3f}, {check['high']:.3f}] · per prompt: p90 {check['p90']:.2f}, "
            f"max {check['max']:.2f}, {100 * check['share_above_delta']:.0f}% above {found['delta']:g}",
            f"  layers {found['block_avg']:.1f} of {context.num_layers} · {found['speedup']:.1f} times the "
            "tokens per second of full depth, measured",
        ]
    lines.append(
        f"  holds for prompts like these and this pipeline ({_pipeline(found, context)}; "
        f"{context.fingerprint})"
    )
    return "\n".join(lines)


def _drafts(setting: dict[str, Any]) -> str:
    """What becomes of tokens that left, of an entry's setting."""
    if setting.get("verify") is None:
        return ""
    verify, ratio, number = (setting[name] for name in ("verify", "accept_ratio", "max_draft"))
    return f", {verify} drafts{f' at {ratio:g}' if verify == 'lenient' else ''}, at most {number} a block"


def _pipeline(found: dict[str, Any], context: Context) -> str:
    pipeline = {**context.pipeline, "precision": found["engine_precision"]}  # a knob, with --calibrate_grid
    if found["top_propagation"] is not None:
        pipeline["LM head"] = f"top-k {found['top_propagation']}"
    del pipeline["weights"]
    pipeline |= unlike_greedy(pipeline.pop("generation"))
    return ", ".join(f"{name} {value}" for name, value in pipeline.items())


def naive_search(quality: np.ndarray, full: np.ndarray, share: float) -> int:
    """The last column whose mean quality is at least `share` of the full model's: what one does without a
    guarantee. quality: [prompts, columns]; full: [prompts]. −1 where none is."""
    means = quality.mean(axis=0)
    enough = means >= share * full.mean()
    return int(np.flatnonzero(enough)[-1]) if enough.any() else -1
