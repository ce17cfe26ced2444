"""calibration.json, the verdict of a calibration: which settings it is about, and which one to decode
with."""

import json
import warnings
from pathlib import Path
from typing import Any

from early_exit.models.calibrated import Certified
from early_exit.policy import ExitPolicy
from early_exit.setting import DecodingSetting

CALIBRATION_FILE = "calibration.json"
_DEEPEST = 1000  # layers: no decoder has as many


def read_certified(folder: Path | str) -> Certified | None:
    """The certified setting that a calibration left in its output folder, or of such a file; None, with a
    warning, where none passed. Raises OSError where there is no calibration, ValueError for a file that is
    none."""
    path = Path(folder)
    path = path if path.is_file() else path / CALIBRATION_FILE
    try:
        certified = certified_of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} holds no calibration that this code reads: {error}") from error
    if certified is None:
        warnings.warn(f"{path} certifies no setting: the full model decodes", stacklevel=3)
    return certified


def certified_of(result: dict[str, Any]) -> Certified | None:
    """The setting to decode with, of the contents of calibration.json; None where none was certified.

    Full depth, which earlier versions certified too, is None, except for a promise about another model's
    texts. Theirs is the first δ's: to take another because it passed would promise more than was tested.
    """
    if "exit_calibration" in result:
        values = result["exit_calibration"]
        certified = None if values is None else Certified.from_dict(values)
    else:
        found = result["deltas"][0]
        certified = _of_earlier_version(result, found) if found["certified"] else None
    if certified is None or certified.reference is not None:
        return certified
    return None if certified.setting.is_full_model(_DEEPEST) else certified


def _of_earlier_version(result: dict[str, Any], found: dict[str, Any]) -> Certified:
    return Certified(
        setting=setting_of(result, found),
        weights=result["pipeline"]["weights"],
        max_length=result["pipeline"]["max tokens"],
        delta=found["delta"],
        epsilon=found["epsilon"],
        loss=f"{result['consistency']} {result['loss']}",
        n=found["n"],
        fingerprint=result["fingerprint"],
    )


def setting_of(result: dict[str, Any], entry: dict[str, Any]) -> DecodingSetting:
    """The setting that an entry of `deltas` is about: certified, or the first one tested.

    Files of earlier versions name its knobs one by one, and lack some that there were none of then. Raises
    ValueError for one with positional decay, which they do not name.
    """
    if "setting" in entry:
        return DecodingSetting.from_dict(entry["setting"])
    if "--exit_position_temp" in result["command"]:
        raise ValueError("a calibration of an earlier version with positional decay does not say which")
    if entry["threshold"] is None:
        raise ValueError("an entry of an earlier version that is not certified does not name its setting")
    top_k = entry.get("top_propagation")
    policy = ExitPolicy(
        measure=result["measure"],
        threshold=entry["threshold"],
        min_layer=entry["exit_min_layer"],
        top_k=top_k,
        screen=result["pipeline"].get("LM head") == "screened" and top_k is None,
    )
    return DecodingSetting(policy, entry["engine_precision"])
