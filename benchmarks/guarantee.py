"""How often a calibration breaks its promise, over calibration sets drawn again and again.

    python -m benchmarks.guarantee --loss-table ../shared/data/losses/cnndm_t5large.npz \
        --json benchmarks/results/guarantee/cnndm_t5large.json

Two kinds of draws. At the boundary, losses of seven distributions whose mean is δ: every pass is a violation.
From a loss table, whose prompts stand for the population: a calibration set is n independent draws of them,
and what is true of a setting is what all prompts say. (To draw without replacement and look at the rest
instead overstates violations: where calibration was lucky the rest is unlucky, by construction.)

Every bound, test and promise is tried, several chains of settings against Pareto's halves, stopping when it
is sure, attempts on the same prompts with ε spent, and the monitor. The share of violations should stay
within ε and two standard errors; lines that promise nothing of the kind are marked: the naive search (the
lowest threshold whose mean quality is 90% or 95% of the full model's), attempts without spending, and
conformal risk control, whose promise is about the mean over draws.

Tables: an .npz with `thresholds` [K] falling, `exit_layer` [K] and `rouge_l` [prompts, K], the first column
the full model; or the loss_table.json.gz of a calibration. At most --settings of the thresholds are used,
evenly. Chains of knobs are the grid's thresholds dealt out to four.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.guarantee_draws import Table, at, at_the_boundary, monitored, trying_again
from benchmarks.guarantee_figure import draw
from early_exit.calibration import BOUNDS, Promise
from util.files import read_json, write_json
from util.held_out import naive_search
from util.results import markdown_table, provenance

_COUNTS_ABOVE = 0.05  # a prompt's loss, for the binomial bound
_SHARES = (0.9, 0.95)
_UNPROMISED = ("naive", "reordered", "full ε", "expectation")


def read_table(path: Path, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """losses [prompts, K], quality [prompts, K], layers [K] or None, and the full model's quality [prompts];
    of at most so many thresholds, falling."""
    if path.suffix == ".npz":
        table = np.load(path)
        quality = table["rouge_l"].astype(float)
        losses, full = np.maximum(0, quality[:, :1] - quality), quality[:, 0]
        layers = table.get("exit_layer")
    else:
        first, *columns = read_json(path)["columns"]
        losses, quality = (np.array([column[name] for column in columns]).T for name in ("losses", "quality"))
        layers, full = np.array([np.mean(column["layers"]) for column in columns]), np.array(first["quality"])
    kept = np.unique(np.linspace(0, losses.shape[1] - 1, min(most, losses.shape[1])).round().astype(int))
    return losses[:, kept], quality[:, kept], None if layers is None else layers[kept], full


def from_table(table: Table, quality, full, n: int, delta: float) -> list[dict]:
    """Every bound, test and promise, for calibration sets of n prompts."""
    bounds = [name for name in BOUNDS if name != "binomial"]
    counted = Promise("share", _COUNTS_ABOVE)
    rows = [table.sequence("bound", bound, n, delta, bound, Promise()) for bound in bounds]
    rows.append(table.sequence("bound", "binomial", n, 2 * delta, "binomial", counted))
    rows += table.tests(n, delta)
    if table.layers is not None:
        count = table.losses.shape[1]
        lengths = [len(range(start, count, 4)) for start in range(min(4, count))]
        order = [place for start in range(min(4, count)) for place in range(start, count, 4)]
        dealt = Table(table.losses[:, order], table.layers[order], table.epsilon, table.draws, 0)
        rows += dealt.several_chains(n, delta, lengths)
    for name, promise in (
        ("share above 0.2", Promise("share", 0.2)),
        ("CVaR of 20%", Promise("cvar", tail=0.2)),
    ):
        bound = promise.bound("wsr")
        rows.append(
            table.sequence("promise", name, n, 0.1 if bound == "binomial" else 5 * delta, bound, promise)
        )
    rows += [table.expectation(n, delta), table.groups(n, 2 * delta)]
    for share in _SHARES:
        drawn = table.drawn(n)
        chosen = np.array([naive_search(quality[each], full[each], share) for each in drawn])
        bad, lost = quality.mean(axis=0) < share * full.mean(), (1 - share) * full.mean()
        rows.append(table.row("naive", f"naive {share:.0%}", n, lost, chosen, at(bad, chosen)))
    return rows


def main() -> None:
    """Prints the table; with --json writes and draws it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loss-table", type=Path, required=True)
    parser.add_argument("--delta", type=float, nargs="+", default=[0.05])
    parser.add_argument("--epsilon", type=float, default=0.05)
    parser.add_argument("--n", type=int, nargs="+", default=[50, 100, 200, 500])
    parser.add_argument("--redraws", type=int, default=4000)
    parser.add_argument("--settings", type=int, default=20, help="thresholds of the table, at most")
    parser.add_argument("--audits", type=int, default=3000, help="of the monitor")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    source = provenance(options.seed, "cpu")

    draws, epsilon, random = options.redraws, options.epsilon, np.random.default_rng(options.seed)
    losses, quality, layers, full = read_table(options.loss_table, options.settings)
    table = Table(losses, layers, epsilon, draws, options.seed)
    rows = at_the_boundary(tuple(BOUNDS), (0.05, 0.2), (10, 50, 100, 500), draws, epsilon, random)
    print("boundary done", flush=True)
    rows += trying_again(draws, max(options.n[:3]), 0.1, [1, 2, 5, 10, 20], epsilon, random)
    for delta in options.delta:
        for n in options.n:
            rows += from_table(table, quality, full, n, delta)
            print(f"δ = {delta:g}, n = {n} done", flush=True)
        rows.append(table.sequential(2 * max(options.n), delta))
        rows += monitored(losses, delta, draws, options.audits, epsilon, random)
    over = [each for each in rows if not holds(each, epsilon)]
    print(markdown_table(lines(rows, epsilon)))
    print(f"{len(over)} of {len(rows)} lines violate what they promise")
    if options.json is not None:
        shown = {"epsilon": epsilon, "violating": over, "rows": rows}
        write_json(options.json, {**source, **shown})
        draw(rows, epsilon, options.json.with_suffix(".png"))


def holds(result: dict, epsilon: float) -> bool:
    """Whether violations are within ε and two standard errors; always where none are promised."""
    if any(word in result["what"] for word in _UNPROMISED):
        return True
    error = np.sqrt(epsilon * (1 - epsilon) / result["draws"])
    return result["violation_rate"] <= epsilon + 2 * error


def lines(rows: list[dict], epsilon: float) -> list[list[str]]:
    """For a table; of the boundary the worst distribution alone."""
    text = [["kind", "what", "n", "δ", "violations", "passed", "layers", ""]]
    worst: dict[tuple, dict] = {}
    for each in rows:
        key = (each["kind"], each["what"], each["n"], each["delta"], each.get("tries"))
        if key not in worst or worst[key]["violation_rate"] < each["violation_rate"]:
            worst[key] = each
    for each in worst.values():
        more = [f"{each[name]:.3g} {words}" for name, words in _MORE.items() if each.get(name) is not None]
        text.append(
            [
                each["kind"],
                each["what"],
                str(each["n"]),
                f"{each['delta']:.3g}",
                f"{each['violation_rate']:.4f}" + ("" if holds(each, epsilon) else " !"),
                f"{each['certified_rate']:.2f}" if "certified_rate" in each else "",
                f"{each['layers']:.2f}" if "layers" in each else "",
                ", ".join([*more, *([each["losses"]] if "losses" in each else [])]),
            ]
        )
    return text


_MORE = {
    "tries": "tries",
    "prompts_read": "prompts read",
    "mean_true_loss": "mean true loss",
    "found": "found",
    "delay": "audits of delay",
}


if __name__ == "__main__":
    main()
