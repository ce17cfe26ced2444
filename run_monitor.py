"""Decode a file of prompts with a certified setting, and watch whether it still keeps its promise.

    python run_monitor.py --model_name_or_path save/e2e --calibration save/calibration \
        --file today.json --state monitor.json --output texts.txt

A random share of the prompts is decoded at full depth too; the losses of these audits go into the state, one
JSON file, which later calls go on with. Prints a line for the day, and draws the state beside it. Exit code 3
once there is alarm.
"""

import argparse
import ast
import sys
import warnings
from pathlib import Path

from transformers import AutoTokenizer

from early_exit.calibration import Monitor, Promise
from early_exit.models.auditing import Audit
from early_exit.models.calibrated import Certified
from early_exit.models.loading import load_model
from early_exit.models.pipeline import tokenizer_hash
from util.calibration_plots import plot_monitor
from util.dissimilarity import TEXTUAL
from util.errors import UsageError
from util.files import read_json, write_json, write_text
from util.text_files import read_rows

_ALARM = 3


def main() -> int:
    """Runs the command line. Returns the exit code: 0, 2 after one line about bad input, 3 with alarm."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument(
        "--calibration", type=Path, help="output folder of a calibration; the checkpoint's own"
    )
    parser.add_argument("--file", type=Path, required=True, help="prompts: .json, .jsonl or .csv")
    parser.add_argument("--text_column", default="document")
    parser.add_argument("--state", type=Path, required=True, help="of the monitor, made when it is missing")
    parser.add_argument("--output", type=Path, help="the texts, one a line")
    parser.add_argument("--audit_share", type=float, default=0.1, help="of the prompts, in (0, 1]")
    parser.add_argument(
        "--epsilon", type=float, help="probability of any false alarm, ever; 0.05, or the state's own"
    )
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--fall_back", action="store_true", help="full depth decodes once there is alarm")
    options = parser.parse_args()
    try:
        return run(options)
    except (UsageError, ValueError, OSError) as error:
        print(f"run_monitor.py: error: {error}", file=sys.stderr)
        return 2


def run(options) -> int:
    """Decodes, audits, saves. Raises UsageError, ValueError or OSError for bad input."""
    model = load_model(options.model_name_or_path, calibration=options.calibration).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model_name_or_path)
    certified = _certified(model)
    promise, delta = Promise(**(certified.promise or {})), certified.delta
    monitor = _monitor(options, certified, promise.limit(delta))
    distance = TEXTUAL[certified.loss.split()[1]]

    def risk(early: list[int], full: list[int]) -> float:
        texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (early, full)]
        return float(promise.risks(min(1.0, max(0.0, distance(*texts))), delta))

    def save(state: Monitor) -> None:
        write_json(options.state, {"fingerprint": certified.fingerprint, **state.to_dict()})

    audit = Audit(monitor, risk, options.audit_share, options.fall_back, save)
    pipeline = certified.pipeline or {}
    if pipeline.get("tokenizer", tokenizer_hash(tokenizer)) != tokenizer_hash(tokenizer):
        warnings.warn("the tokenizer is not the one that was calibrated", stacklevel=1)
    texts = _decode(model, tokenizer, audit, pipeline, options)
    save(monitor)
    plot_monitor(monitor.to_dict()).savefig(options.state.with_suffix(".png"), dpi=110)
    if options.output is not None:
        write_text(options.output, "\n".join(texts) + "\n")
    if promise.guarantee != "mean":
        print(f"watching the mean risk behind: {certified.guarantee} ≤ {delta:g}")
    print(monitor)
    return _ALARM if monitor.alarmed else 0


def _certified(model) -> Certified:
    values = getattr(model.config, "exit_calibration", None)
    if values is None:
        raise UsageError("nothing is certified here: pass --calibration, the output folder of a calibration")
    certified = Certified.from_dict(values)
    promised = certified.guarantee or f"mean {certified.loss}"
    known = certified.promise is not None or (promised.startswith("mean") and "CVaR" not in promised)
    if not known or not str(certified.loss).startswith("textual") or promised.startswith("expected"):
        raise UsageError(
            "a monitor compares texts, and watches a textual loss (mean, share of large ones, CVaR), "
            f"not: {promised}"
        )
    if certified.reference is not None:
        raise UsageError(
            "a monitor compares with this model's full depth; this promise is about texts of "
            f"{certified.reference}"
        )
    return certified


def _monitor(options, certified: Certified, limit: float) -> Monitor:
    """Of the state file, or a new one. limit: of the mean of what is watched."""
    saved = read_json(options.state)
    asked = options.epsilon
    if saved is None:
        return Monitor(limit) if asked is None else Monitor(limit, asked)
    if not isinstance(saved, dict):
        raise UsageError(f"{options.state} holds no state of a monitor")
    fingerprint = saved.pop("fingerprint", None)
    monitor = Monitor.from_dict(saved)
    if fingerprint != certified.fingerprint or monitor.delta != limit:
        raise UsageError(f"{options.state} watches another setting; choose another --state")
    if asked not in (None, monitor.epsilon):
        raise UsageError(
            f"{options.state} goes on with --epsilon {monitor.epsilon}, not {asked}; leave it out, or choose "
            "another --state"
        )
    return monitor


def _decode(model, tokenizer, audit: Audit, pipeline: dict, options) -> list[str]:
    """The texts of all prompts, on one line each."""
    columns, rows = read_rows(str(options.file))
    if options.text_column not in columns:
        raise UsageError(
            f"{options.file} has no column {options.text_column!r}; it has: {', '.join(columns)}"
        )
    prefix = ast.literal_eval(pipeline.get("prefix", "''"))
    prompts = [prefix + str(row.get(options.text_column) or "") for row in rows]
    texts = []
    for first in range(0, len(prompts), options.batch_size):
        inputs = tokenizer(
            prompts[first : first + options.batch_size],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=pipeline.get("source tokens"),
        )
        output = model.generate(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, audit=audit)
        texts += [" ".join(text.split()) for text in tokenizer.batch_decode(output, skip_special_tokens=True)]
    return texts


if __name__ == "__main__":
    sys.exit(main())
