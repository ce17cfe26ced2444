"""What larger models and machines would gain, on paper: writes the tables of docs/scaling.md.

    python -m benchmarks.scaling

At batch 1 a decoder's time goes with the bytes it reads, or with arithmetic where many tokens share a
reading. How many layers a text reads for each token, how many tokens run together and how often the whole LM
head is read are counted in the headline's runs (benchmarks/results/headline); sizes are the models', speeds
the machines'.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from util.files import read_json
from util.pages import rewrite
from util.results import markdown_table

RESULTS = Path(__file__).with_name("results")
HEADLINE = RESULTS / "headline"
PAGE = Path(__file__).parents[1] / "docs/scaling.md"
SHORTLIST = 1000
RUNS = {"e2e": "E2E, 6 layers", "multi30k": "Multi30k, 12 layers"}


@dataclass(frozen=True)
class Model:
    """Sizes of a T5. source: tokens that the decoder looks at; new_tokens: of a text."""

    name: str
    d_model: int
    inner: int
    d_ff: int
    layers: int
    encoder_layers: int
    vocabulary: int = 32128
    source: int = 512
    new_tokens: int = 128

    @property
    def layer(self) -> float:
        """Weights of a decoder layer that a token reads; keys and values of the source are made once."""
        return 6 * self.d_model * self.inner + 2 * self.d_model * self.d_ff

    @property
    def encoder(self) -> float:
        """Multiplications of encoding a source, and of its keys and values for all decoder layers."""
        layer = 4 * self.d_model * self.inner + 2 * self.d_model * self.d_ff
        return self.source * (self.encoder_layers * layer + 2 * self.layers * self.d_model * self.inner)


@dataclass(frozen=True)
class Machine:
    """bandwidth: GB/s of memory; products: 10⁹ multiplications a second; weight, cache: bytes of a number;
    overhead: microseconds of starting a layer."""

    name: str
    bandwidth: float
    products: float
    weight: int = 1
    cache: int = 4
    overhead: float = 0


@dataclass(frozen=True)
class Counted:
    """Of a way of decoding, for each new token. depth: layers read, as a share of all; together: tokens that
    share a reading; whole_heads: readings of the whole LM head; asks: whether each layer read asks a
    shortlist; listed: where none does, readings of it for the token."""

    depth: float
    together: float
    whole_heads: float
    asks: bool
    listed: float = 0


MODELS = [
    Model("T5-small", 512, 512, 2048, 6, 6),
    Model("T5-large", 1024, 1024, 4096, 24, 24),
    Model("T5-3B", 1024, 4096, 16384, 24, 24),
]
MACHINES = [
    Machine("2 cores, 20 GB/s (this one)", 20, 100),
    Machine("8 cores, 70 GB/s", 70, 480),
    Machine("64 cores, 350 GB/s", 350, 3800),
    Machine("GPU, 3,350 GB/s, bfloat16, captured graphs", 3350, 400_000, weight=2, cache=2, overhead=20),
]


@cache
def slower_than_memory() -> float:
    """What an int8 token of the decoder took on the machine of the headline, to reading its bytes."""
    rows = read_json(RESULTS / "decode_speed" / "native-t5-small.json")["rows"]
    key = ("decoder", "int8", "full")
    return next(
        row["times_floor"] for row in rows if (row["system"], row["precision"], row["schedule"]) == key
    )


def seconds(model: Model, machine: Machine, way: Counted) -> float:
    """Of a token, without the encoder."""
    layers = way.depth * model.layers
    rows = way.whole_heads * model.vocabulary + SHORTLIST * (layers if way.asks else way.listed)
    weights = layers * model.layer + rows * model.d_model
    caches = layers * 2 * model.inner * model.source
    read = (weights * machine.weight + caches * machine.cache) / (1e9 * machine.bandwidth)
    computed = weights * way.together / (1e9 * machine.products)
    return slower_than_memory() * max(read, computed) + 1e-6 * machine.overhead * layers


def speedups(model: Model, machine: Machine, way: Counted) -> tuple[float, float]:
    """Times full depth: of the decoder, and of whole texts with their encoder."""
    full, own = (seconds(model, machine, each) for each in (Counted(1, 1, 1, False), way))
    encoder = model.encoder / (1e9 * machine.products) / model.new_tokens
    return full / own, (full + encoder) / (own + encoder)


def ways(rows: list[dict], layers: int) -> dict[str, Counted]:
    """What the headline's exact drafts in int8, and what is certified for each promise, have counted."""
    rows = [row for row in rows if row["rows"] == 1 and row["precision"] in ("int8", "w8a8")]
    chosen = {"exact drafts": next(row for row in rows if row["group"] == "exact drafts")}
    for row in rows:
        for promise in row["promise"].split(", ") if row["promise"] else []:
            chosen[f"certified, {promise}"] = row
    found = {}
    for name, row in chosen.items():
        counts, policy = row["counts"], row["policy"]
        reads = counts.get("reads", counts["layers"])
        whole = 0 if policy["shortlist_at_full_depth"] else counts.get("blocks", counts["tokens"])
        found[name] = Counted(
            depth=reads / counts["tokens"] / layers,
            together=counts["layers"] / reads,
            whole_heads=whole / counts["tokens"],
            asks=policy["measure"] == "softmax",
            listed=float(policy["measure"] is None and policy["shortlist_at_full_depth"]),
        )
    return found


def gains(name: str) -> Callable[[], str]:
    """For `util.pages`: the table of a data set."""

    def table() -> str:
        result = read_json(HEADLINE / f"{name}.json")
        own = ways(result["rows"], result["layers"])
        cells = [["model", "machine", *own]]
        for model in MODELS:
            for machine in MACHINES:
                pairs = [speedups(model, machine, way) for way in own.values()]
                cells.append(
                    [model.name, machine.name, *(f"{decoder:.1f} ({text:.1f})" for decoder, text in pairs)]
                )
        return markdown_table(cells)

    return table


def counted(name: str) -> Callable[[], str]:
    """For `util.pages`: what was counted in a data set's runs."""

    def table() -> str:
        result = read_json(HEADLINE / f"{name}.json")
        cells = [["way of decoding", "depth read", "tokens together", "whole heads a token"]]
        for way, own in ways(result["rows"], result["layers"]).items():
            cells.append([way, f"{own.depth:.2f}", f"{own.together:.2f}", f"{own.whole_heads:.2f}"])
        return markdown_table(cells)

    return table


def tables() -> dict[str, Callable[[], str]]:
    """Of docs/scaling.md, by name."""
    there = [name for name in RUNS if (HEADLINE / f"{name}.json").exists()]
    return {f"gains_{name}": gains(name) for name in there} | {
        f"counted_{name}": counted(name) for name in there
    }


if __name__ == "__main__":
    rewrite(PAGE, tables())
