"""Speed with quality beside it: a trained model with T5-small's cost, every system on the same records.

    pip install -r benchmarks/requirements.txt
    python benchmarks/widen.py ../shared/checkpoints/e2e-small ../shared/data/e2e/validation.json save/wide
    python benchmarks/headline.py save/wide --calibration save/wide/calibration.json --json headline.json

transformers' `generate`, CTranslate2, the engine at full depth, static exits, softmax exits read naively,
through propagated tokens and screened, and the setting that a calibration has certified. Encoder included.
All systems take turns (CTranslate2 in processes of its own, see workers.py); a ratio is the median over turns
of tokens per second to those of `generate` in the same turn.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoTokenizer

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from ctranslate2_peer import named_tokens, numbered_tokens, translator
from workers import Workers

from early_exit import DecodingSetting, ExitPolicy
from early_exit.models.calibration_file import setting_of
from early_exit.models.loading import load_model
from util.files import read_json, write_json
from util.metrics import rouge_against, scoring_rules
from util.results import markdown_table, provenance, setting_name

PREFIX, LONGEST_SOURCE, NEW_TOKENS = "summarize: ", 128, 63


@dataclass(frozen=True)
class System:
    """generate, ctranslate2, or the engine where there is a policy; label: what tables say instead."""

    name: str
    precision: str = "float32"
    policy: ExitPolicy | None = None
    label: str = ""

    @property
    def process(self) -> str:
        """Name of the process that it runs in."""
        return f"ctranslate2 {self.precision}" if self.name == "ctranslate2" else "torch"

    def __str__(self) -> str:
        what = self.name if self.policy is None else f"engine, {setting_name(self.policy)}"
        return f"{self.label or what}, {self.precision}"


def systems(
    num_layers: int, thresholds: list[float], top_k: int, certified: list[tuple[float, DecodingSetting]]
) -> list[System]:
    """All that are compared. certified: pairs of δ and what is certified for it."""
    result = [System("generate"), System("ctranslate2"), System("ctranslate2", "int8")]
    for precision in ("float32", "int8"):
        static = [ExitPolicy(static_layer=layer) for layer in range(1, num_layers)]
        softmax = [
            ExitPolicy(measure="softmax", threshold=threshold, **more)
            for more in ({}, {"top_k": top_k}, {"screen": True})
            for threshold in thresholds
        ]
        policies = [ExitPolicy(), ExitPolicy(screen=True), *static, *softmax]
        result += [System("engine", precision, policy) for policy in policies]
    for delta, setting in certified:
        label = f"certified for δ = {delta:g}: {setting_name(setting.policy)}"
        result.append(System("engine", setting.precision, setting.policy, label))
    return result


def build(system: System, setting: tuple, threads: int) -> Callable[[], tuple]:
    """For `Workers`: decodes the records and gives tokens, one list a record, and mean layers a token."""
    model_path, data, records, batch = setting
    model, sources, _ = _inputs(model_path, data)
    sources = sources[:records]
    if system.name == "ctranslate2":
        decoder = translator(model, system.precision, threads)
        named = named_tokens(sources)

        def translate() -> tuple:
            texts = []
            for first in range(0, records, batch):
                part = named[first : first + batch]
                texts += decoder.translate_batch(part, beam_size=1, max_decoding_length=NEW_TOKENS)
            return [numbered_tokens(text.hypotheses[0]) for text in texts], None

        return translate

    options = {"max_new_tokens": NEW_TOKENS, "exit_policy": system.policy}
    if system.policy is not None:
        options |= {"engine_precision": system.precision, "return_dict_in_generate": True}

    def generate() -> tuple:
        texts, layers = [], []
        for first in range(0, records, batch):
            part = [torch.tensor(row) for row in sources[first : first + batch]]
            tokens = torch.nn.utils.rnn.pad_sequence(part, batch_first=True)
            output = model.generate(input_ids=tokens, attention_mask=(tokens != 0).long(), **options)
            if system.policy is not None:
                layers += output.exit_layers[output.exit_layers > 0].tolist()
                output = output.sequences
            texts += [_text(row) for row in output[:, 1:].tolist()]
        return texts, statistics.mean(layers) if layers else None

    return generate


def _text(row: list[int]) -> list[int]:
    return row[: row.index(1)] if 1 in row else row


@cache
def _inputs(model_path: str, data: str) -> tuple:
    """Model, source tokens and reference text of every record."""
    model, tokenizer = load_model(model_path).eval(), AutoTokenizer.from_pretrained(model_path)
    records = [json.loads(line) for line in Path(data).read_text(encoding="utf-8").splitlines()]
    sources = tokenizer(
        [PREFIX + each["document"] for each in records], truncation=True, max_length=LONGEST_SOURCE
    )
    return model, sources["input_ids"], [each["summary"] for each in records]


def compare(workers: Workers, members: list[System], options, batch: int) -> list[dict]:
    """A row a system."""
    setting = (str(options.model), str(options.data), options.records, batch)
    references = _inputs(*setting[:2])[2][: options.records]
    rouge = rouge_against(references, AutoTokenizer.from_pretrained(options.model))
    speeds, found = {system: [] for system in members}, {}
    for system in members:
        seconds, found[system] = workers.timed(system, *setting)  # packs weights and warms up
        print(f"  {system}: {seconds:.1f} s", flush=True)
    for _ in range(options.rounds):
        for system in members:
            seconds, (texts, _) = workers.timed(system, *setting)
            speeds[system].append(sum(len(text) + 1 for text in texts) / seconds)
    base = speeds[members[0]]
    full = found[members[0]][0]
    return [
        {
            "system": str(system),
            "name": system.name,
            "precision": system.precision,
            "batch": batch,
            "certified": bool(system.label),
            "rougeL": rouge(found[system][0])["rougeL"],
            "same_texts": statistics.mean(a == b for a, b in zip(found[system][0], full, strict=True)),
            "block_avg": found[system][1],
            "tokens_per_second": statistics.median(speeds[system]),
            "times_generate": statistics.median(a / b for a, b in zip(speeds[system], base, strict=True)),
        }
        for system in members
    ]


def table(rows: list[dict]) -> str:
    """As Markdown."""
    cells = [["system", "batch", "ROUGE-L", "layers", "tokens/s", "times generate", "texts as generate's"]]
    for row in rows:
        layers = "" if row["block_avg"] is None else f"{row['block_avg']:.2f}"
        figures = [f"{row['rougeL']:.2f}", layers, f"{row['tokens_per_second']:.0f}"]
        figures += [f"{row['times_generate']:.2f}", f"{100 * row['same_texts']:.0f}%"]
        cells.append([row["system"], str(row["batch"]), *figures])
    return markdown_table(cells)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/e2e/validation.json"))
    parser.add_argument(
        "--calibration", type=Path, nargs="+", default=[], help="calibration.json, whose first δ is compared"
    )
    parser.add_argument("--records", type=int, default=48)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.3, 0.6, 0.9])
    parser.add_argument("--top-k", type=int, default=85, help="K of the propagated tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every system")
    parser.add_argument("--json", type=Path, help="where the results go")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def main() -> None:
    """Prints the table; with --json writes it."""
    options = read_options()
    results = [read_json(path) for path in options.calibration]
    found = [(result, result["deltas"][0]) for result in results if result["deltas"][0]["certified"]]
    certified = [(entry["delta"], setting_of(result, entry)) for result, entry in found]
    layers = load_model(str(options.model)).num_exits
    members = systems(layers, options.thresholds, options.top_k, certified)
    environment = provenance(0, "cpu") | scoring_rules() | {"ctranslate2": version("ctranslate2")}
    with Workers(build, options.threads) as workers:
        rows = [row for batch in options.batch for row in compare(workers, members, options, batch)]
    print(table(rows))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            options.json,
            {"environment": environment, "certified": [entry for _, entry in found], "rows": rows},
        )


if __name__ == "__main__":
    main()
