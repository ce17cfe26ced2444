"""How often a certified threshold breaks its promise, over calibration sets drawn again and again.

    python benchmarks/guarantee.py --loss-table ../shared/data/losses/cnndm_t5large.npz \
        --json benchmarks/results/guarantee/cnndm_t5large.json

The prompts of a loss table stand for the population: a calibration set is n independent draws of them, and
the true mean loss of a threshold is its mean over all prompts. (To draw without replacement and look at the
rest instead overstates violations: where calibration was lucky the rest is unlucky, by construction.)
A violation is a certified threshold whose true mean exceeds δ; its share should stay within ε.

Tables: an .npz with `thresholds` [K] falling and `rouge_l` [prompts, K], the first column the full model; or
the loss_table.json of a calibration. The binomial bound gets losses of 0 and 1, whether a prompt loses more
than 0.05. `naive 95%` is the lowest threshold whose mean quality is 95% of the full model's on the draw; it
violates where that does not hold for all prompts.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from early_exit.calibration import BOUNDS, fixed_sequence, p_value
from util.files import read_json, write_json
from util.results import markdown_table, provenance
from util.verdict import naive_search

_COUNTS_ABOVE = 0.05  # a prompt's loss, for the binomial bound
_SHARES = (0.9, 0.95)


def read_table(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """thresholds [K] falling, losses [prompts, K], quality [prompts, K], and the full model's [prompts]."""
    if path.suffix == ".npz":
        table = np.load(path)
        quality = table["rouge_l"].astype(float)
        return table["thresholds"], np.maximum(0, quality[:, :1] - quality), quality, quality[:, 0]
    full, *columns = read_json(path)["columns"]
    thresholds = np.array([column["setting"]["threshold"] for column in columns])
    losses, quality = (np.array([column[name] for column in columns]).T for name in ("losses", "quality"))
    return thresholds, losses, quality, np.array(full["quality"])


def certified(losses: np.ndarray, delta: float, bound: str, epsilon: float) -> int:
    """The last column that a fixed sequence accepts; −1 for none. p-values are computed as far as needed."""
    accepted = -1
    for column in range(losses.shape[1]):
        if not fixed_sequence([p_value(losses[:, column], delta, bound, epsilon)], epsilon):
            break
        accepted = column
    return accepted


def redraw(losses, thresholds, delta: float, bound: str, n: int, options) -> dict:
    """A row: violations and the mean certified threshold over calibration sets of n prompts."""
    if bound == "binomial":
        losses = (losses > _COUNTS_ABOVE).astype(float)
    means, random = losses.mean(axis=0), np.random.default_rng(options.seed)
    chosen = [
        certified(losses[random.integers(len(losses), size=n)], delta, bound, options.epsilon)
        for _ in range(options.redraws)
    ]
    return _row(bound, n, delta, chosen, means > delta, thresholds)


def redraw_naive(quality, full, thresholds, share: float, n: int, options) -> dict:
    """The same for the naive search; δ is the loss of mean quality that it means to allow."""
    random, chosen = np.random.default_rng(options.seed), []
    for _ in range(options.redraws):
        drawn = random.integers(len(quality), size=n)
        chosen.append(naive_search(quality[drawn], full[drawn], share))
    violates = quality.mean(axis=0) < share * full.mean()
    return _row(f"naive {share:.0%}", n, (1 - share) * full.mean(), chosen, violates, thresholds)


def _row(bound: str, n: int, delta: float, chosen: list[int], violates: np.ndarray, thresholds) -> dict:
    found = [place for place in chosen if place >= 0]
    rate = sum(violates[place] for place in found) / len(chosen)
    return {
        "bound": bound,
        "n": n,
        "delta": float(delta),
        "redraws": len(chosen),
        "violation_rate": float(rate),
        "standard_error": float(np.sqrt(rate * (1 - rate) / len(chosen))),
        "certified_rate": len(found) / len(chosen),
        "mean_threshold": float(np.mean(thresholds[found])) if found else None,
    }


def draw(rows: list[dict], epsilon: float, path: Path) -> None:
    """Violation rate by bound, a panel a size of calibration set, with two standard errors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = sorted({row["n"] for row in rows})
    names = list(dict.fromkeys(row["bound"] for row in rows))
    figure, panels = pyplot.subplots(1, len(sizes), figsize=(4 * len(sizes), 3.6), sharey=True, squeeze=False)
    for panel, n in zip(panels[0], sizes, strict=True):
        for row in (row for row in rows if row["n"] == n):
            naive = row["bound"].startswith("naive")
            panel.errorbar(
                names.index(row["bound"]),
                row["violation_rate"],
                yerr=2 * row["standard_error"],
                fmt="s" if naive else "o",
                color="tab:red" if naive else "tab:blue",
                alpha=0.7,
            )
        panel.axhline(epsilon, color="0.3", linestyle="--", label=f"ε = {epsilon:g}")
        panel.set(title=f"n = {n}", xticks=range(len(names)))
        panel.set_xticklabels(names, rotation=40, ha="right", fontsize=8)
        panel.set_yscale("symlog", linthresh=0.01)
        panel.grid(axis="y", alpha=0.3)
    panels[0][0].set_ylabel("share of draws that violate δ")
    panels[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Prints the table; with --json writes and draws it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loss-table", type=Path, required=True)
    parser.add_argument("--delta", type=float, nargs="+", default=[0.01, 0.02])
    parser.add_argument("--epsilon", type=float, default=0.05)
    parser.add_argument("--n", type=int, nargs="+", default=[50, 100, 500])
    parser.add_argument("--redraws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    thresholds, losses, quality, full = read_table(options.loss_table)
    rows = []
    for n in options.n:
        for bound in BOUNDS:
            rows += [redraw(losses, thresholds, delta, bound, n, options) for delta in options.delta]
        rows += [redraw_naive(quality, full, thresholds, share, n, options) for share in _SHARES]
        print(f"n = {n} done", flush=True)
    table = [["bound", "n", "δ", "violations", "certified", "mean λ"]]
    table += [
        [
            row["bound"],
            str(row["n"]),
            f"{row['delta']:.3g}",
            f"{row['violation_rate']:.3f}",
            f"{row['certified_rate']:.2f}",
            "" if row["mean_threshold"] is None else f"{row['mean_threshold']:.2f}",
        ]
        for row in rows
    ]
    print(markdown_table(table))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            options.json, {**provenance(options.seed, "cpu"), "epsilon": options.epsilon, "rows": rows}
        )
        draw(rows, options.epsilon, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
