"""The other systems that decode T5 on a CPU, each with the settings that are best here, and with right texts."""

import ctranslate2_peer
import onnx_peer
from systems import Setting, System, random_model, random_source
from text_check import LARGEST, lost_logit
from workers import Workers

NAMES = ("ctranslate2", "onnxruntime")


def best_peers(workers: Workers, names: list[str], setting: Setting) -> tuple[list[System], list[dict]]:
    """Peers in float32 and int8, and what was left out: `system` and `reason`. names: of `NAMES`."""
    chosen, left_out = [], []
    for precision in ("float32", "int8"):
        for name in names:
            if name == "onnxruntime" and not onnx_peer.available():
                reason = f"{onnx_peer.PYTHON} names no Python that has it"
                left_out.append({"system": f"{name} {precision}", "reason": reason})
                continue
            settings = ctranslate2_peer.candidates() if name == "ctranslate2" else [()]
            tried = [System(name, precision, settings=each) for each in settings]
            best, reasons = _fastest_right(workers, tried, setting)
            left_out += reasons
            if best is not None:
                chosen.append(best)
    return chosen, left_out


def _fastest_right(
    workers: Workers, tried: list[System], setting: Setting
) -> tuple[System | None, list[dict]]:
    """The fastest of two calls among those that write right texts, and why others do not count."""
    best, shortest, left_out = None, float("inf"), []
    for system in tried:
        reason = None
        # The slow instruction set is for processors on which nothing else is right.
        if best is not None and ("CT2_FORCE_CPU_ISA", "GENERIC") in system.settings:
            continue
        try:
            _, result = workers.timed(system, *setting)
            lost = lost_logit(random_model(setting.shape), random_source(setting), result["tokens"])
            if not lost <= LARGEST:
                reason = f"wrong texts: {lost:.2f} from the model's, at most {LARGEST}"
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
        if reason is None:
            seconds = min(workers.timed(system, *setting)[0] for _ in range(2))
            if seconds < shortest:
                if best is not None:
                    workers.end(best.process)
                best, shortest = system, seconds
                continue
        else:
            print(f"  {system}: left out, {reason}", flush=True)
            left_out.append({"system": str(system), "reason": reason})
        workers.end(system.process)
    return best, left_out
