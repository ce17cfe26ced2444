"""What a sweep with full depth, exits and drafts comes to, in a table and in words.

python -m util.ways_in_words save/demo/sweep/sweep.json
"""

import argparse
from pathlib import Path
from typing import Any

from early_exit import ExitPolicy
from util.files import read_json
from util.plots import main_score
from util.results import markdown_table

_NEAR = 0.99  # of full depth's score


def ways(points: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Points of a sweep.json by what they stand for: `full depth`, `exact drafts`, `exits`: of the latter two
    the fastest; of exits among those within 1% of full depth's score (`util.plots.main_score`). What there is
    none of is left out.
    """
    plain = [point for point in points if point["policy"]["verify"] is None]
    deepest = [point for point in plain if _is_full_depth(point)]
    if not deepest:
        return {}
    full = deepest[0]
    exact = [point for point in points if ExitPolicy.from_dict(point["policy"]).is_exact]
    score, _ = main_score(points)
    enough = _NEAR * full["metrics"][score]
    near = [point for point in plain if not _is_full_depth(point) and point["metrics"][score] >= enough]
    found = {"full depth": full}
    for name, rivals in (("exact drafts", exact), ("exits", near)):
        if rivals:
            found[name] = max(rivals, key=lambda point: point["metrics"]["eval_tokens_per_second"])
    return found


def in_words(points: list[dict[str, Any]]) -> str:
    """A row a way, and a sentence for each."""
    found = ways(points)
    if not found:
        return "The sweep has no point at full depth to compare with: add --static_exit_layer all."
    full, (score, name_of_score) = found["full depth"]["metrics"], main_score(points)
    header = ["", "setting", name_of_score, "layers", "tokens/s", "times full depth"]
    rows, lines = [], []
    for name, point in found.items():
        metrics = point["metrics"]
        times = metrics["eval_tokens_per_second"] / full["eval_tokens_per_second"]
        numbers = [metrics["eval_block_avg"], metrics["eval_tokens_per_second"], times]
        cells = [f"{value:.{digits}f}" for value, digits in zip(numbers, (2, 0, 2), strict=True)]
        rows.append([name, point["setting"], f"{metrics[score]:.2f}", *cells])
        if name == "exact drafts":
            kept = 100 * metrics["eval_accept_rate"]
            lines.append(
                f"Exact drafts write full depth's text, token for token, at {times:.2f} times its speed; "
                f"{kept:.0f}% of the drafts stayed."
            )
        if name == "exits":
            lines.append(
                f"Exits within 1% of full depth's {name_of_score} run at {times:.2f} times its speed; their "
                "texts may be others."
            )
    if "exits" not in found:
        lines.append(f"No exits come within 1% of full depth's {name_of_score}.")
    return "\n".join([markdown_table([header, *rows]), "", *lines])


def _is_full_depth(point: dict[str, Any]) -> bool:
    *earlier, _ = point["metrics"]["eval_exit_layer_counts"]
    return not any(earlier)


def main() -> None:
    """Of the sweep file given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="sweep.json")
    content = read_json(parser.parse_args().sweep)
    if content is None:
        parser.error("no such file")
    print(in_words(content["points"]))


if __name__ == "__main__":
    main()
