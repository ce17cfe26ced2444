"""Result files: metrics with what produced them, and tables of sweeps."""

import csv
import io
import platform
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from early_exit import ExitPolicy
from util.disturbed import NOTE, TIMINGS, disturbed
from util.files import read_json, write_json, write_text
from util.run_folder import SWEEP_FILE

# As Linux names them.
_INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp")
_PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "accelerate",
    "tokenizers",
    "numpy",
    "rouge-score",
    "sacrebleu",
    "regex",
)
_REPOSITORY = Path(__file__).resolve().parents[1]

# Column of a table → metric; scores where any point has them.
SCORES = {
    "ROUGE-1": "eval_rouge1",
    "ROUGE-2": "eval_rouge2",
    "ROUGE-L": "eval_rougeL",
    "ROUGE-Lsum": "eval_rougeLsum",
    "BLEU": "eval_bleu",
    "chrF": "eval_chrf",
    "exact match": "eval_exact_match",
    "F1": "eval_f1",
}
TABLE_METRICS = {
    "block_avg": "eval_block_avg",
    "tokens/s": "eval_tokens_per_second",
    "ms/token": "eval_ms_per_token",
}


# Shown where any point has them: the times' spread; of top-k propagation the share of tokens for which the
# whole head's choice was among the K; of a screened LM head the share of questions for which it was computed
# whole.
_SPREAD = {"p10": "eval_ms_per_token_p10", "p90": "eval_ms_per_token_p90"}
_SHARES = {
    "kept": "eval_top_k_kept",
    "fell back": "eval_screen_fell_back",
    "accepted": "eval_accept_rate",
    "tokens/block": "eval_tokens_per_block",
}


def provenance(seed: int, device: torch.device | str) -> dict[str, Any]:
    """What a result needs to be repeated: command, seed, versions, commit, processor and threads. The commit
    is that of the process's first call: what is measured, whatever is committed meanwhile."""
    return {
        "command": shlex.join(["python", *_called(sys.argv)]),
        "seed": seed,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "commit": commit(),
        "device": device_name(device),
        "instructions": instructions(),
        "threads": torch.get_num_threads(),
    }


def _called(argv: list[str]) -> list[str]:
    """As it is typed: `python -m` leaves a module's whole path in the place of its name."""
    path = Path(argv[0])
    if not (path.is_absolute() and path.is_relative_to(_REPOSITORY)):
        return argv
    return ["-m", ".".join(path.relative_to(_REPOSITORY).with_suffix("").parts), *argv[1:]]


@cache
def commit() -> str | None:
    """Commit of this checkout, with "-dirty" where tracked files differ; None outside of git."""
    try:
        git = ["git", "-C", str(_REPOSITORY)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("-dirty" if changes.stdout.strip() else "")


def device_name(device: torch.device | str) -> str:
    """The name of the accelerator, or of the processor."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def instructions() -> list[str]:
    """Those of the processor that decide how fast the compiled kernels are; processors of one name differ."""
    try:
        content = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    found = re.search(r"^flags\s*:(.*)$", content, re.MULTILINE)
    known = set(found[1].split()) if found else set()
    return [name for name in _INSTRUCTIONS if name in known]


def write_results(folder: Path, split: str, metrics: dict[str, Any], source: dict[str, Any]) -> None:
    """`{split}_results.json` and its merge into `all_results.json`, as transformers' scripts name them.

    source: of `provenance`; stands in both files beside the metrics.
    """
    write_json(folder / f"{split}_results.json", {**metrics, **source})
    together = read_json(folder / "all_results.json", default={})
    write_json(folder / "all_results.json", {**together, **metrics, **source})


def setting_name(policy: ExitPolicy) -> str:
    """How tables call a policy."""
    screened = " screened" if policy.screen else ""
    if policy.shortlist is not None:
        screened += f" N={policy.shortlist}" + (" everywhere" if policy.shortlist_at_full_depth else "")
    screened += _drafting_name(policy)
    if policy.measure is None:
        deep = policy.static_layer is None
        return f"full depth{screened}" if deep else f"static {policy.static_layer}{screened}"
    name = f"{policy.measure} λ={float(policy.threshold)!r}"
    if policy.min_layer > 1:
        name += f" min={policy.min_layer}"
    if policy.max_layer is not None:
        name += f" max={policy.max_layer}"
    if policy.static_layer is not None:
        name += f" last={policy.static_layer}"
    if policy.position_temperature is not None:
        name += f" τ={policy.position_temperature:g}"
    if policy.top_k is not None:
        name += f" K={policy.top_k}"
    return name + screened


def _drafting_name(policy: ExitPolicy) -> str:
    if policy.verify is None:
        return ""
    limits = {"lenient": policy.accept_ratio, "rollback": policy.rollback_threshold}
    limit = f" {limits[policy.verify]:g}" if policy.verify in limits else ""
    return f" {policy.verify}{limit} ×{policy.max_draft}"


def table_rows(points: list[dict[str, Any]]) -> list[list[str]]:
    """Header and a row a point, as text. A point is `{"setting": name, "metrics": {...}}`."""

    def there(metrics: dict[str, str]) -> dict[str, str]:
        found = {metric for point in points for metric in point["metrics"]}
        return {name: metric for name, metric in metrics.items() if metric in found}

    columns = there(SCORES) | TABLE_METRICS | there(_SPREAD) | there(_SHARES)
    rows = [["setting", *columns]]
    for point in points:
        rows.append([point["setting"], *(_cell(point["metrics"], metric) for metric in columns.values())])
    marks = ["disturbed" if mark else "" for mark in disturbed(points)]
    if any(marks):
        rows = [[*row, mark] for row, mark in zip(rows, ["note", *marks], strict=True)]
    return rows


def _cell(metrics: dict[str, Any], metric: str) -> str:
    if metric not in metrics:
        return ""
    return f"{metrics[metric]:.{3 if metric in _SHARES.values() else 2}f}"


def markdown_table(rows: list[list[str]]) -> str:
    """A table with aligned columns; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    separator = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(rows[0]), separator, *map(line, rows[1:])])


def heads_table(heads: dict[str, dict[str, dict[str, Any]]]) -> str:
    """What evaluation says of exit heads, `name → layer → quality`, a row each."""
    return markdown_table(heads_table_rows(heads))


def heads_table_rows(heads: dict[str, dict[str, dict[str, Any]]]) -> list[list[str]]:
    """The same as header and rows of text."""
    columns = ("agreement", "auroc", "brier", "ece")
    rows = [["exit head", "layer", *columns]]
    for name, layers in heads.items():
        for layer, quality in layers.items():
            figures = [quality[column] for column in columns]
            cells = ("" if figure is None else f"{figure:.3f}" for figure in figures)
            rows.append([name, str(layer), *cells])
    return rows


def csv_text(rows: list[list[str]]) -> str:
    """The same rows as comma-separated values."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


class SweepTable:
    """The points of a sweep in `folder`: sweep.json, sweep.csv and sweep.md, rewritten after each.

    Starts with the points that the folder holds. source: of `provenance`, kept with each point. writes: of
    several processes one writes.
    """

    def __init__(self, folder: Path, source: dict[str, Any], writes: bool = True):
        self._folder, self._source, self._writes = folder, source, writes
        self._points = read_json(folder / SWEEP_FILE, default={"points": []})["points"]

    def __contains__(self, policy: ExitPolicy) -> bool:
        return self._point(policy) is not None

    def add(self, policy: ExitPolicy, metrics: dict[str, Any]) -> None:
        """Adds a point and rewrites the files."""
        point = {"setting": setting_name(policy), "policy": policy.to_dict(), "metrics": metrics}
        self._points.append({**point, **self._source})
        self._write()

    def disturbed(self) -> list[ExitPolicy]:
        """The policies of points whose times stand out, see `util.disturbed`."""
        marked = zip(self._points, disturbed(self._points), strict=True)
        return [ExitPolicy.from_dict(point["policy"]) for point, mark in marked if mark and "policy" in point]

    def retime(self, policy: ExitPolicy, metrics: dict[str, Any]) -> None:
        """Replaces the timings of a point by those of a later evaluation, whose source stands beside them as
        `retimed`; and rewrites the files."""
        point = self._point(policy)
        point["metrics"] |= {name: metrics[name] for name in TIMINGS if name in metrics}
        point["retimed"] = self._source
        self._write()

    def _point(self, policy: ExitPolicy) -> dict[str, Any] | None:
        """Points of earlier versions are known by their names alone."""
        for point in self._points:
            if "policy" not in point:
                found = point["setting"] == setting_name(policy)
            else:
                found = ExitPolicy.from_dict(point["policy"]).to_dict() == policy.to_dict()
            if found:
                return point
        return None

    def _write(self) -> None:
        if not self._writes:
            return
        write_json(self._folder / SWEEP_FILE, {"points": self._points})
        write_text(self._folder / "sweep.csv", csv_text(table_rows(self._points)))
        write_text(self._folder / "sweep.md", f"{self}\n")

    def __str__(self) -> str:
        table = markdown_table(table_rows(self._points))
        return f"{table}\n\n{NOTE}" if any(disturbed(self._points)) else table
