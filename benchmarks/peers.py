"""The other systems that decode T5 on a CPU, with the settings that are best here and write right texts."""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import ctranslate2_peer, onnx_peer
from benchmarks.systems import Setting, System, random_model, random_source
from benchmarks.text_check import LARGEST, lost_logit
from benchmarks.workers import Workers

NAMES = ("ctranslate2", "onnxruntime")


def best_peers(workers: Workers, names: list[str], setting: Setting) -> tuple[list[System], list[dict]]:
    """Peers in float32 and int8, and what was left out: `system` and `reason`. names: of `NAMES`."""
    chosen, left_out = [], onnx_peer.missing() if "onnxruntime" in names else []
    for precision in ("float32", "int8"):
        for name in names:
            if name == "onnxruntime" and onnx_peer.missing():
                continue
            settings = ctranslate2_peer.candidates() if name == "ctranslate2" else [()]
            tried = [System(name, precision, settings=each) for each in settings]
            check = partial(_check_logits, setting)
            best, _, reasons = fastest_right(workers, tried, setting, check)
            left_out += reasons
            if best is not None:
                chosen.append(best)
    return chosen, left_out


def fastest_right(
    workers: Workers, tried: list, setting: tuple, check: Callable[[Any], None]
) -> tuple[Any | None, float, list[dict]]:
    """The fastest of the systems that write right texts, by the faster of two calls; its seconds; and why
    others do not count: `system` and `reason`.

    tried: each of them may be slow, wrong or fail; CTranslate2's last resort is for where no other is right.
    check: of what a system gave; raises ValueError where that is wrong.
    """
    best, shortest, left_out = None, float("inf"), []
    for system in tried:
        if best is not None and ctranslate2_peer.is_last_resort(system.settings):
            continue
        slower = system
        try:
            check(workers.timed(system, *setting)[1])
            seconds = min(workers.timed(system, *setting)[0] for _ in range(2))
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            print(f"  {system}: left out, {reason}", flush=True)
            left_out.append({"system": str(system), "reason": reason})
        else:
            if seconds < shortest:
                slower, best, shortest = best, system, seconds
        if slower is not None and slower.name in NAMES:  # torch's process is for others, too
            workers.end(slower.process)
    return best, shortest, left_out


def _check_logits(setting: Setting, result: dict[str, Any]) -> None:
    """Raises ValueError for texts that are not the random model's."""
    lost = lost_logit(random_model(setting.shape), random_source(setting), result["tokens"])
    if not lost <= LARGEST:
        raise ValueError(f"wrong texts: {lost:.2f} from the model's, at most {LARGEST}")
