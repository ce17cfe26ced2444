"""Tables of the results page, from the JSON files in benchmarks/results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.block_share import table as block_share_table
from benchmarks.drafts import table as drafts_table
from benchmarks.headline import table as headline_table
from benchmarks.own_text import table_of as own_text_table
from benchmarks.speed_report import aims_table
from benchmarks.speed_report import main_table as speed_table
from early_exit.models.calibration_file import setting_of
from util.files import read_json
from util.results import markdown_table, setting_name, table_rows

RESULTS = Path(__file__).with_name("results")
_SHOWN_PROMISES = ("textual δ = 0.05", "risk δ = 0.02", "risk δ = 0.05")  # in the README


def load(name: str) -> Any:
    """A file of benchmarks/results, by its path there without ending."""
    for suffix in (".json", ".json.gz"):
        content = read_json(RESULTS / f"{name}{suffix}")
        if content is not None:
            return content
    raise FileNotFoundError(RESULTS / name)


_PEERS = ("ctranslate2", "onnxruntime")


def headline() -> str:
    """A few rows for the README, one text at a time; docs/results.md has them all."""
    rows = [row for row in load("headline/e2e")["rows"] if row["rows"] == 1]
    exact = [row for row in rows if row["group"] == "exact drafts" and row["precision"] == "int8"]
    fastest = min(exact, key=lambda row: row["ms_per_token"])
    found: list[tuple[str, str, dict[str, Any]]] = []
    for row in rows:
        if row["system"] == "generate" or (row["group"] == "full depth" and row["precision"] == "int8"):
            found.append(("", "", row))
        elif row is fastest:
            found.append(("int8 full depth's text, token for token", "0", row))
        elif row["group"] == "drafts exact on the list":
            found.append(("the same, where full depth writes listed tokens only", "", row))
        for promise in _SHOWN_PROMISES:
            if promise in row["promise"].split(", "):
                found.append((promise, _held_out(promise), row))
    cells = [["guarantee", "system", "precision", "loss held out", "ms a token", "× own int8",
              "× own int8, listed", "× `generate`", "× CTranslate2", "× ONNX Runtime"]]  # fmt: skip
    # Of both precisions of a peer the faster.
    rivals = [min(row["ms_per_token"] for row in rows if row["system"] == name) for name in _PEERS]
    listed = next(
        row["ms_per_token"] for row in rows if row["group"] == "full depth" and "N=" in row["system"]
    )
    for promise, held_out, row in found:
        own, theirs = (row[name]["median"] for name in ("times_own_int8", "times_generate"))
        ratios = [own, listed / row["ms_per_token"], theirs]
        ratios = [f"{each:.1f}" for each in (*ratios, *(peer / row["ms_per_token"] for peer in rivals))]
        cells.append(
            [promise, row["system"], row["precision"], held_out, f"{row['ms_per_token']:.2f}", *ratios]
        )
    return markdown_table(cells)


def _held_out(promise: str) -> str:
    """Mean loss on prompts that were not calibrated with, of a promise as "textual δ = 0.05"."""
    consistency, delta = promise.split(" δ = ")
    deltas = load(f"headline/e2e-{consistency}")["deltas"]
    entry = next(each for each in deltas if each["delta"] == float(delta))
    return f"{entry['held_out']['mean']:.3f}"


def verdicts() -> str:
    """Every certificate in the folder `certified` and those of the demo and E2E."""
    rows = [["calibration", "δ", "certified", "n", "held out", "95% interval", "layers", "speed"]]
    names = (
        "certified/exits",
        "certified/parallel",
        "certified/wide_mlp_exits",
        "certified/wide_mlp_parallel",
        "calibration_e2e/calibration",
        "demo/calibration",
    )
    for name in names:
        verdict = load(name)
        for entry in sorted(verdict["deltas"], key=lambda each: each["delta"]):
            held_out, found = entry["held_out"], setting_of(verdict, entry)
            exits = entry["certified"] and found.exits(verdict["num_layers"])
            setting = setting_name(found.policy) if exits else "full depth alone"
            check = ["", ""] if held_out is None else [
                f"{held_out['mean']:.3f}", f"{held_out['low']:.3f} to {held_out['high']:.3f}"
            ]  # fmt: skip
            figures = [f"{entry['block_avg']:.2f}", f"{entry['speedup']:.2f}"] if held_out else ["", ""]
            rows.append([name, f"{entry['delta']:g}", setting, str(entry["n"]), *check, *figures])
    return markdown_table(rows)


def sweep(name: str) -> Callable[[], str]:
    """A sweep's own table."""
    return lambda: markdown_table(table_rows(load(name)["points"]))


def drafts(name: str) -> Callable[[], str]:
    return lambda: drafts_table(load(name)["rows"])


def speed(*names: str) -> Callable[[], str]:
    """Time of a token by system, and what was aimed at. names: of files of `decode_speed.py`."""

    def table() -> str:
        runs = [load(f"decode_speed/{name}") for name in names]
        rows, aims = ([each for run in runs for each in run[part]] for part in ("rows", "aims"))
        return f"{speed_table(rows)}\n\n{aims_table(aims)}"

    return table


def quality_and_speed(quality: str, *names: str) -> Callable[[], str]:
    """What runs of `benchmarks/headline.sh` measured. names: of their files."""
    return lambda: headline_table(
        [row for name in names for row in load(f"headline/{name}")["rows"]], quality
    )


def multi30k() -> str:
    """The exits of a translation model, trained for longer and on texts of its own."""
    models = {
        "multi30k-4500": "4,500 steps",
        "own": "4,500 steps, own texts",
        "own-gold": "4,500 steps, own texts and as many gold texts",
        "own-propagated": "4,500 steps, own texts, propagated states",
        "multi30k-long": "7,000 steps",
        "multi30k-long-own": "7,000 steps, own texts",
        "multi30k-mixed": "7,000 steps, own texts of mixed documents",
        "multi30k-small": "1,800 steps of 96, all exits",
        "multi30k": "2,400 steps of 256, all exits, d_model 256",
        "multi30k-own": "2,400 steps of 256, own texts of mixed documents",
    }
    rows = [["trained", *(f"BLEU, exit {layer}" for layer in (4, 8)), "BLEU, full depth"]]
    rows[0] += [f"agreement, exit {layer}" for layer in (1, 2, 4, 6, 8)]
    for name, trained in models.items():
        exits = {each["layer"]: each for each in load(f"multi30k/{name}")["exits"]}
        scores = [f"{exits[layer]['bleu']:.1f}" for layer in (4, 8, max(exits))]
        rows.append([trained, *scores, *(f"{exits[layer]['agreement']:.3f}" for layer in (1, 2, 4, 6, 8))])
    return markdown_table(rows)


def own_text(folder: str, *more: str) -> Callable[[], str]:
    """The recipes of a folder, those of `more` last."""
    gold = "gold gold_kd free_ce free_kd_last free_kd_unif free_kd_dyna layerskip"
    names = ["start", *gold.split(), "own", "own_kd", "own_propagation", *more]
    return lambda: own_text_table({name: load(f"{folder}/{name}") for name in names})


def plain(name: str, columns: dict[str, tuple[str, str]]) -> Callable[[], str]:
    """The rows of a file. columns: header → key and format."""

    def table() -> str:
        rows = [[_cell(row.get(key), how) for key, how in columns.values()] for row in load(name)["rows"]]
        return markdown_table([list(columns), *rows])

    return table


def guarantee() -> str:
    """How often a certified setting breaks its promise, on a real table; of each way the worst δ."""
    found = load("guarantee/cnndm_t5large")
    rows = [["what", "δ", "n", "violations", "certified", "mean layers"]]
    for row in found["rows"]:
        if row["kind"] in ("bound", "promise", "knobs", "naive") and row["n"] in (100, 200, 500):
            certified = _cell(row.get("certified_rate"), ".2f")
            violations = f"{100 * row['violation_rate']:.1f}%"
            layers = _cell(row.get("layers"), ".1f")
            rows.append([row["what"], f"{row['delta']:.3g}", str(row["n"]), violations, certified, layers])
    return markdown_table(rows)


def _cell(value: Any, how: str) -> str:
    return "" if value is None else format(value, how)


# By the name that pages use.
TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "certified": verdicts,
    "drafts": drafts("drafts/e2e-small-own"),
    "drafts_wide": drafts("drafts/wide-own-mlp"),
    "block_share": lambda: block_share_table(load("drafts/block_share")["rows"]),
    "demo": sweep("demo/sweep"),
    "e2e": sweep("e2e/sweep"),
    "measures": sweep("confidence_e2e/sweep"),
    "speed": speed("native-t5-small"),
    "speed_vnni": speed("vnni-t5-small", "vnni-t5-small-batch8", "vnni-t5-small-batch32"),
    "speed_and_quality": quality_and_speed("rougeL", "e2e"),
    "speed_and_quality_batches": quality_and_speed("rougeL", "e2e-batch8", "e2e-batch32"),
    "speed_and_quality_t5_base": quality_and_speed("rougeL", "e2e-t5-base"),
    "speed_and_quality_second": quality_and_speed("rougeL", "e2e-second"),
    "speed_and_quality_multi30k": quality_and_speed("bleu", "multi30k"),
    "speed_and_quality_multi30k_small": quality_and_speed("bleu", "multi30k-small"),
    "multi30k": multi30k,
    "own_text": own_text("own_text", "plain", "plain_adapters"),
    "own_text_multi30k": own_text("multi30k_own_text", "plain", "plain_adapters"),
    "guarantee": guarantee,
    "confidence_cost": plain(
        "confidence_cost/t5-small",
        {
            "measure": ("method", ""), "precision": ("precision", ""), "batch": ("batch", "d"),
            "ms/token": ("ms_per_token", ".2f"), "ratio": ("ratio_to_no_confidence", ".2f"),
        },
    ),
    "precision": plain(
        "precision",
        {
            "exits": ("policy", ""), "precision": ("precision", ""), "ROUGE-L": ("rougeL", ".2f"),
            "same texts": ("texts_identical", ".1%"), "same tokens": ("tokens_identical", ".1%"),
        },
    ),
    "calibration_cost": plain(
        "calibration_cost",
        {
            "procedure": ("procedure", ""), "seconds": ("seconds", ".0f"),
            "passes over the prompts": ("passes", ".1f"), "ratio": ("ratio_to_ours", ".1f"),
        },
    ),
    "train_step": plain(
        "train_step",
        {
            "variant": ("variant", ""), "seconds": ("seconds", ".2f"), "time": ("time_ratio", ".2f"),
            "peak memory": ("memory_ratio", ".2f"),
        },
    ),
    "head_training": plain(
        "head_training",
        {
            "heads": ("heads", ""), "seconds a step": ("seconds_per_step", ".2f"),
            "ratio": ("ratio_to_all_apart", ".2f"),
        },
    ),
}  # fmt: skip
