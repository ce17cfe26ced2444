"""The certified exit setting that a checkpoint's configuration holds, and whether a call keeps to it."""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

from early_exit.models.effective_generation import (
    differences,
    effective_generation,
    greedy_generation,
    merged_config,
)
from early_exit.models.engines import kept_for
from early_exit.models.exit_heads import fingerprint
from early_exit.models.generation import early_exit_generate
from early_exit.models.options import why_not_served
from early_exit.models.pipeline import pipeline_differences
from early_exit.policy import ExitPolicy
from early_exit.setting import DecodingSetting
from early_exit.values import from_plain, to_plain

CALIBRATED = "calibrated"  # as an exit policy: the certified one, or none
_VERSION = 1


@dataclass(frozen=True)
class Certified:
    """A certified setting with what its guarantee is tied to: `config.exit_calibration`, as a dictionary.

    generation: the effective generation config that was calibrated (`models.effective_generation`).
    weights: `models.exit_heads.fingerprint` of the model. max_length: in tokens, start token included.
    delta, epsilon, loss, n: the promise, on how many prompts it rests; guarantee: what it promises of the
    loss, in words; promise: the same as the fields of `early_exit.calibration.Promise`; fingerprint: of the
    pipeline, as the verdict names it; pipeline: what else is compared with a call (`models.pipeline`),
    weights as there; reference: the checkpoint whose texts are compared with, None for full depth of this
    one. Files of earlier versions lack some of these.
    """

    setting: DecodingSetting
    weights: str
    max_length: int
    generation: dict[str, Any] | None = None
    delta: float | None = None
    epsilon: float | None = None
    loss: str | None = None
    n: int | None = None
    fingerprint: str | None = None
    pipeline: dict[str, Any] | None = None
    guarantee: str | None = None
    reference: str | None = None
    promise: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return to_plain(self, _VERSION)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Certified":
        """Of `to_dict`, or as earlier versions wrote it: the setting's keys beside the others.

        Raises ValueError for what it does not know, see `early_exit.values.from_plain`.
        """
        if "setting" not in values:
            rest = {name: values[name] for name in ("weights", "max_length") if name in values}
            setting = {name: value for name, value in values.items() if name not in rest}
            values = {"setting": setting, **rest}
        return from_plain(cls, values, _VERSION)


def calibrated_policy(
    model, engine_precision: str | None, options: dict
) -> tuple[ExitPolicy | None, str | None]:
    """The certified policy of a model and its precision; None and `engine_precision` where there is none.

    options: of the call to `generate`, by name; gets the calibrated maximum length where it says nothing of
    lengths. Warns of everything that the guarantee does not cover. What exits cannot serve, such as beams,
    gets the full model and transformers' own loop, with a warning. Raises ValueError for a setting that this
    code does not know.
    """
    values = getattr(model.config, "exit_calibration", None)
    if values is None:
        return None, engine_precision
    certified = Certified.from_dict(values)
    if options.get("custom_generate") is early_exit_generate:
        del options["custom_generate"]  # the loop that a policy selects anyway
    with_length = _with_length(options, certified.max_length)
    called = effective_generation(model, with_length)
    reason = why_not_served(merged_config(model, options)[0], options)
    if reason is not None:
        warnings.warn(f"calibrated exits do not serve {reason}: the full model decodes", stacklevel=4)
        return None, None
    options.update(with_length)
    differs = _differs(model, certified, engine_precision, called, options)
    if differs:
        warnings.warn(f"the calibrated guarantee does not hold here: {'; '.join(differs)}", stacklevel=4)
    return certified.setting.policy, engine_precision or certified.setting.precision


def _with_length(options: dict, max_length: int) -> dict:
    """The options, with a maximum length where they have none."""
    config = options.get("generation_config")
    names = ("max_length", "max_new_tokens")
    if any(options.get(name) is not None or getattr(config, name, None) is not None for name in names):
        return options
    if config is None:
        return {**options, "max_length": max_length}
    config = copy.deepcopy(config)  # transformers wants no options beside one
    config.max_length = max_length
    return {**options, "generation_config": config}


def _differs(
    model, certified: Certified, engine_precision: str | None, called: dict, options: dict
) -> list[str]:
    """What of a call is not as it was calibrated."""
    if certified.pipeline is None:
        differs = _differs_from_earlier(model, certified, engine_precision)
    else:
        differs = pipeline_differences(
            certified.pipeline, model, certified.setting, engine_precision, options
        )
    calibrated = certified.generation
    if calibrated is None:
        calibrated = greedy_generation(model, certified.max_length)
    return differs + differences(calibrated, called)


def _differs_from_earlier(model, certified: Certified, engine_precision: str | None) -> list[str]:
    """Of a setting that an earlier version certified: it knew some numbers of the weights, and the
    precision."""
    differs = []
    if certified.weights != kept_for(model, "fingerprint", lambda: fingerprint(model)):
        differs.append("the weights are not those that were calibrated")
    precision = certified.setting.precision
    if engine_precision not in (None, precision):
        differs.append(f"precision {engine_precision} instead of {precision}")
    return differs
