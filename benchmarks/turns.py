"""Systems that take turns, and ratios within a turn."""

import statistics
from typing import Any

from benchmarks.systems import Setting, System, random_model, random_source
from benchmarks.text_check import lost_logit
from benchmarks.workers import Workers


def take_turns(
    workers: Workers, systems: list[System], setting: Setting, rounds: int, budget: float
) -> list[dict[str, Any]]:
    """A row a system, with `seconds` [turns]. A system that has used up `budget` seconds skips further turns.

    `lost_logit`: of its text, see `text_check`, where it wrote at full depth. `details`: what its call says
    beside the tokens, of its last turn; `bytes_per_second` [turns] of the bandwidth.
    """
    rows = {system: _row(workers, system, setting) for system in systems}
    for _ in range(rounds):
        for system, row in rows.items():
            if sum(row["seconds"]) <= budget:
                seconds, result = workers.timed(system, *setting)
                row["seconds"].append(seconds)
                if "bytes_per_second" in result:
                    row.setdefault("bytes_per_second", []).append(result["bytes_per_second"])
    for row in rows.values():
        milliseconds = 1000 * statistics.median(row["seconds"])
        row["ms_per_token"] = milliseconds / (setting.batch * setting.new_tokens)
    return list(rows.values())


def _row(workers: Workers, system: System, setting: Setting) -> dict[str, Any]:
    """Of the first call, which packs weights and warms up."""
    first, result = workers.timed(system, *setting)
    row = {
        "system": system.name,
        "precision": system.precision,
        "schedule": system.schedule,
        "settings": dict(system.settings),
        **setting._asdict(),
        "seconds": [],
    }
    lost = ""
    if "tokens" in result and system.schedule == "full":
        row["lost_logit"] = lost_logit(random_model(setting.shape), random_source(setting), result["tokens"])
        lost = f", text {row['lost_logit']:.3f} from the model's"
    if "details" in result:
        row["details"] = result["details"]
    print(f"  {system}: first call {first:.1f} s{lost}", flush=True)
    return row


def ratio(row: dict, other: dict) -> float:
    """The median over turns of one row's time to another's."""
    pairs = zip(row["seconds"], other["seconds"], strict=False)  # one may have skipped its last turns
    return statistics.median(own / base for own, base in pairs)
