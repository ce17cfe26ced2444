"""Tables, aims and the picture of `decode_speed.py`, from its rows."""

from pathlib import Path

from util.results import markdown_table

# What a ratio should not exceed, at batch 1: (precision, schedule, system to compare with, aim).
_AIMS_AT_ONE = [
    ("float32", "full", "generate", 0.55),
    ("int8", "full", "generate", 0.20),
    ("int8", "full", "ctranslate2 int8", 0.60),
    ("int8", "1/3", "generate", 0.12),
    ("int8", "1/3", "ctranslate2 int8", 0.37),
]


def aims(rows: list[dict]) -> list[dict]:
    """What the engine should reach, beside what it did: `name`, `aim`, `measured`. For ragged exits, whose
    encoder costs what full depth's does, also `measured_without_encoder`."""
    ratios = {
        (row["batch"], row["system"], row["precision"], row["schedule"]): row["ratio_to_generate"]
        for row in rows
    }
    result = []

    def compare(batch: int, own: tuple[str, str], other: tuple[str, str, str], aim: float, name: str) -> None:
        own_ratio = ratios.get((batch, "engine", *own))
        if own_ratio is not None and (batch, *other) in ratios:
            measured = own_ratio / ratios[batch, *other]
            result.append({"name": f"batch {batch}: {name}", "aim": aim, "measured": measured})

    for precision, schedule, system, aim in _AIMS_AT_ONE:
        other = ("generate", "float32", "full") if system == "generate" else ("ctranslate2", "int8", "full")
        depth = "full depth" if schedule == "full" else f"{schedule} of the depth"
        compare(1, (precision, schedule), other, aim, f"{precision}, {depth} / {system}")
    for batch in sorted({row["batch"] for row in rows} - {1}):
        for precision in ("float32", "int8"):
            full = ("full depth / ctranslate2 " + precision, ("ctranslate2", precision, "full"))
            compare(batch, (precision, "full"), full[1], 1.0, f"{precision}, {full[0]}")
            own_full = ("engine", precision, "full")
            compare(batch, (precision, "ragged"), own_full, 0.6, f"{precision}, ragged L/3 / own full depth")
            encoder = ratios.get((batch, "encoder", precision, "full"))
            if encoder is not None:
                ragged, full = ratios[batch, "engine", precision, "ragged"], ratios[batch, *own_full]
                result[-1]["measured_without_encoder"] = (ragged - encoder) / (full - encoder)
    return result


def layer_costs(rows: list[dict]) -> dict[str, float]:
    """Share of a full-depth token's time that half of the decoder layers take, by batch and precision."""
    times = {
        (row["batch"], row["precision"], row["schedule"]): row for row in rows if row["system"] == "engine"
    }
    return {
        f"batch {batch}, {precision}": 1
        - times[batch, precision, "1/2"]["ratio_to_generate"] / row["ratio_to_generate"]
        for (batch, precision, schedule), row in times.items()
        if schedule == "full" and (batch, precision, "1/2") in times
    }


def tables(results: dict) -> str:
    """Everything measured, as Markdown."""
    sections = [_main_table(results), _aims_table(results["aims"]), _lengths_table(results["lengths"])]
    floor = results["floor"]
    steps = ", ".join(f"{precision} {time:.2f} ms" for precision, time in floor["ms_per_step"].items())
    sections.append(f"Floor at {floor['bandwidth'] / 1e9:.1f} GB/s, a step of any batch: {steps}.")
    shares = ", ".join(f"{where}: {share:.0%}" for where, share in layer_costs(results["rows"]).items())
    sections.append(f"Half of the decoder layers take of a token's time: {shares}.")
    memory = ", ".join(
        f"{row['system']} {row['precision']} {row['peak_bytes'] / 2**20:.0f} MiB" for row in results["memory"]
    )
    sections.append(f"Peak memory of a process: {memory}.")
    return "\n\n".join(sections)


def _main_table(results: dict) -> str:
    rows = results["rows"]
    batches = sorted({row["batch"] for row in rows})
    systems = list(dict.fromkeys((row["system"], row["precision"], row["schedule"]) for row in rows))
    cells = {(row["batch"], row["system"], row["precision"], row["schedule"]): row for row in rows}
    header = ["system", "precision", "depth"]
    for batch in batches:
        header += [f"batch {batch}: ms/token", "ratio"]
    lines = []
    for system in systems:
        line = list(system)
        for batch in batches:
            row = cells[batch, *system]
            line += [f"{row['ms_per_token']:.2f}", f"{row['ratio_to_generate']:.2f}"]
        lines.append(line)
    return markdown_table([header, *lines])


_BESIDE = "measured_without_encoder"


def _aims_table(rows: list[dict]) -> str:
    lines = [
        [
            row["name"],
            f"{row['aim']:.2f}",
            f"{row['measured']:.2f}"
            + (f" ({row[_BESIDE]:.2f} without the encoder)" if _BESIDE in row else ""),
            "yes" if row["measured"] <= row["aim"] else "no",
        ]
        for row in rows
    ]
    return markdown_table([["ratio", "aim", "measured", "met"], *lines])


def _lengths_table(rows: list[dict]) -> str:
    places = list(dict.fromkeys((row["source"], row["new_tokens"]) for row in rows))
    systems = list(dict.fromkeys((row["system"], row["precision"], row["schedule"]) for row in rows))
    cells = {
        (row["source"], row["new_tokens"], row["system"], row["precision"], row["schedule"]): row
        for row in rows
    }
    header = ["source", "new tokens", *(" ".join(system) + ": ms/token" for system in systems)]
    lines = [
        [str(source), str(new), *(f"{cells[source, new, *system]['ms_per_token']:.2f}" for system in systems)]
        for source, new in places
    ]
    return markdown_table([header, *lines])


def draw(results: dict, path: Path) -> None:
    """Bars of the ratio to `generate`, a panel a batch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in results["rows"] if row["precision"] != "bfloat16" and row["system"] != "encoder"]
    batches = sorted({row["batch"] for row in rows})
    colours = {"generate": "0.45", "ctranslate2": "tab:orange", "engine": "tab:blue"}
    figure, panels = pyplot.subplots(
        1, len(batches), figsize=(4 * len(batches) + 1.5, 4.5), sharey=True, squeeze=False
    )
    for panel, batch in zip(panels[0], batches, strict=True):
        shown = [row for row in rows if row["batch"] == batch]
        names = [
            f"{row['system']} {row['precision']}"
            + ("" if row["schedule"] == "full" else f", {row['schedule']}")
            for row in shown
        ]
        bars = panel.barh(
            names,
            [row["ratio_to_generate"] for row in shown],
            color=[colours[row["system"]] for row in shown],
        )
        panel.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
        panel.set(
            title=f"{rows[0]['shape']}, batch {batch}", xlabel="time per token / generate", xlim=(0, 1.15)
        )
        panel.grid(axis="x", alpha=0.3)
    panels[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
