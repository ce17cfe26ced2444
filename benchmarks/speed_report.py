"""Aims and tables of `decode_speed.py`, from its rows."""

from benchmarks.turns import ratio
from util.results import markdown_table

# What a system's time to another's should not exceed, for T5-small's shape: (batch, system, other, aim),
# where a system is (name, precision, schedule).
_AIMS = [
    *((1, ("engine", own, "full"), ("generate", "float32", "full"), 0.075) for own in ("int8", "w8a8")),
    *((1, ("engine", own, "full"), ("ctranslate2", "int8", "full"), 0.25) for own in ("int8", "w8a8")),
    *((1, ("engine", own, "1/3"), ("generate", "float32", "full"), 0.035) for own in ("int8", "w8a8")),
    (1, ("engine", "float32", "full"), ("ctranslate2", "float32", "full"), 0.80),
    (1, ("engine", "int4", "full"), ("engine", "int8", "full"), 0.75),
    *((8, ("engine", own, "full"), ("ctranslate2", "int8", "full"), 0.4) for own in ("int8", "w8a8")),
    *((32, ("engine", own, "full"), ("ctranslate2", "int8", "full"), 0.6) for own in ("int8", "w8a8")),
]
_RAGGED_AIM, _FLOOR_AIM, _STREAM_AIM = 0.5, 1.3, 0.7


def aims(rows: list[dict], stream: list[dict]) -> list[dict]:
    """What the engine should reach, beside what it did: `name`, `aim`, `measured`."""
    found = {_key(row): row for row in rows}
    result = []

    def compare(batch: int, own: tuple, other: tuple, aim: float) -> None:
        if (batch, *own) in found and (batch, *other) in found:
            measured = ratio(found[batch, *own], found[batch, *other])
            name = f"batch {batch}: {_name(own)} / {_name(other)}"
            result.append({"name": name, "aim": aim, "measured": measured})

    for aim in _AIMS:
        compare(*aim)
    for batch, system, precision, schedule in found:
        # In step, as the engine decodes: waiting for other rows gains nothing on compiled kernels.
        if batch > 1 and (system, schedule) == ("decoder", "ragged in step"):
            own = (system, precision, schedule)
            compare(batch, own, (system, precision, "full"), _RAGGED_AIM)
    floor = found.get((1, "decoder", "int8", "full"))
    if floor is not None:
        name = "batch 1: decoder int8 / reading its bytes"
        result.append({"name": name, "aim": _FLOOR_AIM, "measured": floor["times_floor"]})
    for row in stream:
        name = f"stream, {row['rows']} rows {row['precision']} {row['schedule']}: continuous / fixed"
        result.append({"name": name, "aim": _STREAM_AIM, "measured": row["ratio"]})
    return result


def tables(results: dict) -> str:
    """Everything measured, as Markdown."""
    sections = []
    if results["rows"]:
        whole = [row for row in results["rows"] if row["system"] != "decoder"]
        sections += [main_table(whole), _decoder_table(results["rows"])]
    if results["stream"]:
        sections.append(_stream_table(results["stream"]))
    if results["aims"]:
        sections.append(aims_table(results["aims"]))
    if "lengths" in results:
        sections.append(_lengths_table(results["lengths"]))
    if "memory" in results:
        peaks = (
            f"{row['system']} {row['precision']} {row['peak_bytes'] / 2**20:.0f} MiB"
            for row in results["memory"]
        )
        sections.append(f"Peak memory of a process: {', '.join(peaks)}.")
    sections += [
        f"Left out at batch {each['batch']}: {each['system']}, {each['reason']}."
        for each in results["left_out"]
    ]
    return "\n\n".join(sections)


def _key(row: dict) -> tuple:
    return row["batch"], row["system"], row["precision"], row["schedule"]


def _name(system: tuple[str, str, str]) -> str:
    name, precision, schedule = system
    if name == "generate":
        return name
    return f"{name} {precision}" + ("" if schedule == "full" else f" {schedule}")


def main_table(rows: list[dict]) -> str:
    """A line a system, milliseconds per token and ratio to `generate` a batch."""
    batches = sorted({row["batch"] for row in rows})
    found = {_key(row): row for row in rows}
    header = ["system", "precision", "depth"]
    for batch in batches:
        header += [f"batch {batch}: ms/token", "ratio", "text"]
    lines = []
    for system in dict.fromkeys(_key(row)[1:] for row in rows):
        line = list(system)
        for batch in batches:
            line += _main_cells(found.get((batch, *system)))
        lines.append(line)
    note = "text: how far from the float32 model's, 0 is equal, 1 any text."
    return markdown_table([header, *lines]) + "\n\n" + note


def _main_cells(row: dict | None) -> list[str]:
    if row is None:
        return ["", "", ""]
    text = f"{row['lost_logit']:.3f}" if "lost_logit" in row else ""
    return [f"{row['ms_per_token']:.3f}", f"{row['ratio_to_generate']:.3f}", text]


def _decoder_table(rows: list[dict]) -> str:
    """The decoder without the encoder, beside the whole."""
    found = {_key(row): row for row in rows}
    header = ["batch", "precision", "depth", "decoder: ms/token", "own full depth", "MB a step", "GB/s"]
    lines = [[*header, "times floor", "whole: ms/token", "own full depth"]]
    for (batch, system, precision, schedule), row in found.items():
        if system != "decoder":
            continue
        line = [str(batch), precision, schedule, f"{row['ms_per_token']:.3f}"]
        line.append(f"{ratio(row, found[batch, system, precision, 'full']):.2f}")
        if "times_floor" in row:
            line.append(f"{sum(row['step_bytes'].values()) / 1e6:.1f}")
            line += [f"{row['bandwidth'] / 1e9:.1f}", f"{row['times_floor']:.2f}"]
        else:
            line += [""] * 3
        # As `generate` decodes, rows stay in step.
        depth = {"full": "full", "ragged in step": "ragged"}.get(schedule)
        whole, full = (found.get((batch, "engine", precision, each)) for each in (depth, "full"))
        line += ["", ""] if whole is None else [f"{whole['ms_per_token']:.3f}", f"{ratio(whole, full):.2f}"]
        lines.append(line)
    return markdown_table(lines)


def _stream_table(rows: list[dict]) -> str:
    lines = [
        [
            str(row["rows"]),
            row["precision"],
            row["schedule"],
            f"{row['continuous_seconds']:.2f}",
            f"{row['fixed_seconds']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['same_texts']:.0%}",
        ]
        for row in rows
    ]
    header = ["stream: rows", "precision", "depth", "continuous: s", "fixed: s", "ratio", "same texts"]
    return markdown_table([header, *lines])


def aims_table(rows: list[dict]) -> str:
    lines = [
        [
            row["name"],
            f"{row['aim']:g}",
            f"{row['measured']:.3f}",
            "yes" if row["measured"] <= row["aim"] else "no",
        ]
        for row in rows
    ]
    return markdown_table([["ratio", "aim", "measured", "met"], *lines])


def _lengths_table(rows: list[dict]) -> str:
    places = list(dict.fromkeys((row["source"], row["new_tokens"]) for row in rows))
    systems = list(dict.fromkeys(_key(row)[1:] for row in rows))
    cells = {(row["source"], row["new_tokens"], *_key(row)[1:]): row for row in rows}
    header = ["source", "new tokens", *(f"{_name(system)}: ms/token" for system in systems)]
    lines = [
        [str(source), str(new), *(f"{cells[source, new, *system]['ms_per_token']:.2f}" for system in systems)]
        for source, new in places
    ]
    return markdown_table([header, *lines])
