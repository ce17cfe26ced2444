"""Sections of a report, from the result files of a run's folder."""

from pathlib import Path
from typing import Any

from early_exit.models.calibration_file import CALIBRATION_FILE, setting_of
from util.errors import UsageError
from util.figures import run_figures
from util.files import read_json
from util.report.html import escaped, figures, folded, table
from util.report.texts import texts_section
from util.results import heads_table_rows, setting_name, table_rows
from util.run_folder import RUN_FILE, SWEEP_FILE, SWEEP_RUN_FILE, TEXTS_FILE

_RESULT_FILES = (
    SWEEP_FILE,
    CALIBRATION_FILE,
    "train_results.json",
    "eval_results.json",
    "predict_results.json",
)
_SOURCE = ("command", "commit", "seed", "device", "threads", "versions", "sentence_splitter", "rouge_words")


def run_sections(folder: Path) -> str:
    """HTML about a folder's own results, and about those one folder below. Raises UsageError where there are
    none."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder")
    runs = [each for each in (folder, *sorted(folder.iterdir())) if _has_results(each)]
    if not runs:
        raise UsageError(f"{folder} holds none of {', '.join(_RESULT_FILES)}, nor does a folder in it")
    if runs == [folder]:
        return _run(folder, 0)
    return "".join(
        f"<h2>{escaped(run.resolve().name)}</h2>{_run(run, number)}" for number, run in enumerate(runs)
    )


def _has_results(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _RESULT_FILES)


def _run(folder: Path, number: int) -> str:
    sweep, calibration = read_json(folder / SWEEP_FILE), read_json(folder / CALIBRATION_FILE)
    parts = []
    if calibration is not None:
        parts.append(_verdicts(calibration))
    if sweep is not None:
        parts.append(table(table_rows(sweep["points"])))
    for split in ("train", "eval", "predict"):
        metrics = read_json(folder / f"{split}_results.json")
        if metrics is not None:
            parts.append(_metrics(split, metrics))
    parts.append(figures(run_figures(folder)))
    texts = read_json(folder / TEXTS_FILE)
    if texts is not None:
        parts.append(texts_section(texts, f"texts{number}"))
    parts.append(folded("Settings, versions, command", _settings(folder)))
    return "".join(parts)


def _verdicts(calibration: dict[str, Any]) -> str:
    """A row a δ."""
    rows = [["δ", "verdict", "setting", "n", "mean loss", "held out", "layers", "times full depth"]]
    for entry in calibration["deltas"]:
        held_out = entry["held_out"]
        rows.append([
            f"{entry['delta']:g}",
            "certified" if entry["certified"] else "not certified: full model",
            setting_name(setting_of(calibration, entry).policy) if entry["certified"] else "",
            entry["n"],
            _number(entry["mean_loss"]),
            "" if held_out is None else _check(held_out),
            _number(entry["block_avg"], 2),
            _number(entry["speedup"], 2),
        ])  # fmt: skip
    promised = f"Loss: {calibration['consistency']}, {calibration['loss']}; held out with its 95% interval."
    return table(rows) + f"<p class=note>{escaped(promised)}</p>"


def _check(held_out: dict[str, Any]) -> str:
    return f"{held_out['mean']:.3f} [{held_out['low']:.3f}, {held_out['high']:.3f}], n = {held_out['n']}"


def _metrics(split: str, metrics: dict[str, Any]) -> str:
    plain = {name: value for name, value in metrics.items() if name not in _SOURCE}
    heads = plain.pop(f"{split}_heads", None)
    rows = [["metric", "value"]]
    for name, value in sorted(plain.items()):
        rows.append([name, f"{value:.4g}" if isinstance(value, float) else value])
    quality = "" if heads is None else table(heads_table_rows(heads))
    return folded(f"{split} metrics", table(rows)) + quality


def _settings(folder: Path) -> str:
    """Flags, and where the results come from."""
    source: dict[str, Any] = {}
    for name in _RESULT_FILES:
        content = read_json(folder / name)
        if content is not None:
            newest = content["points"][-1] if content.get("points") else content
            source = {key: newest[key] for key in _SOURCE if key in newest}
            break
    for name in (SWEEP_RUN_FILE, RUN_FILE):
        source |= (read_json(folder / name) or {}).get("settings", {})
    rows = [["setting", "value"], *([name, value] for name, value in source.items() if value is not None)]
    return table(rows)


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"
