"""The certified exit setting that a checkpoint's configuration holds, and whether a call keeps to it."""

import warnings
from typing import Any

from early_exit.policy import ExitPolicy
from models.engines import kept_for
from models.exit_heads import fingerprint

CALIBRATED = "calibrated"  # as an exit policy: the certified one, or none


_POLICY_FIELDS = ("measure", "threshold", "min_layer", "position_temperature", "top_k", "screen")


def policy_values(policy: ExitPolicy) -> dict[str, Any]:
    """The fields of a policy that leaves by confidence at one threshold; JSON values."""
    return {name: getattr(policy, name) for name in _POLICY_FIELDS}


def certified_setting(policy: ExitPolicy, precision: str, max_length: int, model) -> dict[str, Any]:
    """What `config.exit_calibration` keeps of a certified policy; JSON values."""
    return {
        **policy_values(policy),
        "precision": precision,
        "max_length": max_length,
        "weights": fingerprint(model),
    }


def calibrated_policy(
    model, engine_precision: str | None, options: dict
) -> tuple[ExitPolicy | None, str | None]:
    """The certified policy of a model and its precision; None and `engine_precision` where there is none.

    options: of the call to `generate`; gets the calibrated `max_length` where it says nothing of lengths.
    Warns of everything that the guarantee does not cover. Beams and streams, which exits cannot serve, get
    the full model, with a warning.
    """
    setting = getattr(model.config, "exit_calibration", None)
    if setting is None:
        return None, engine_precision
    config = options.get("generation_config") or model.generation_config

    def asked(name: str, default: Any) -> Any:
        return options.get(name, getattr(config, name, None)) or default

    if asked("num_beams", 1) > 1 or options.get("streamer") is not None:
        warnings.warn(
            "calibrated exits serve neither beams nor streams: the full model decodes", stacklevel=4
        )
        return None, engine_precision
    if not {"max_length", "max_new_tokens", "generation_config"} & set(options):
        options["max_length"] = setting["max_length"]
    differs = []
    weights = kept_for(model, "fingerprint", lambda: fingerprint(model))
    if setting["weights"] != weights:
        differs.append("the weights are not those that were calibrated")
    if asked("do_sample", False):
        differs.append("sampling instead of greedy decoding")
    if engine_precision not in (None, setting["precision"]):
        differs.append(f"precision {engine_precision} instead of {setting['precision']}")
    longest = options.get("max_new_tokens")
    longest = asked("max_length", setting["max_length"]) if longest is None else longest + 1
    if longest != setting["max_length"]:
        differs.append(f"texts of at most {longest} tokens instead of {setting['max_length']}")
    if differs:
        warnings.warn(f"the calibrated guarantee does not hold here: {'; '.join(differs)}", stacklevel=4)
    policy = ExitPolicy(**{name: setting[name] for name in _POLICY_FIELDS})
    return policy, engine_precision or setting["precision"]
