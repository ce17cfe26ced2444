"""What `headline.py` compares: systems that write texts for the same records, and how each is run."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
from transformers import AutoTokenizer

from benchmarks import ctranslate2_peer, onnx_peer
from benchmarks.drafts import PEERS, peer_options
from benchmarks.records import pairs, source_tokens
from benchmarks.workers import process_of
from early_exit import DecodedRow, ExitPolicy
from early_exit.models.loading import load_model
from early_exit.models.sources import Source
from early_exit.models.stream import decode_prompts
from util.results import setting_name


@dataclass(frozen=True)
class Records:
    """Some records of a data file. rows: texts that are written at a time."""

    model: str
    data: str
    prefix: str
    first: int
    count: int
    rows: int
    new_tokens: int


@dataclass(frozen=True)
class System:
    """generate; ctranslate2; onnxruntime; or the engine where there is a policy.

    group: of the table; promise: what a calibration has certified, in words. settings: environment variables
    of its process. beams: of a peer; drafts: how `generate` drafts, a name of `drafts.PEERS`.
    """

    name: str
    precision: str = "float32"
    policy: ExitPolicy | None = None
    group: str = "peer"
    promise: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    beams: int = 1
    drafts: str | None = None

    def __str__(self) -> str:
        """In tables."""
        if self.policy is not None:
            return setting_name(self.policy)
        beams = [] if self.beams == 1 else [f"{self.beams} beams"]
        return ", ".join([self.name, *beams, *([] if self.drafts is None else [self.drafts])])

    @property
    def process(self) -> str:
        """Name of the process that it runs in."""
        return process_of(self)


def shallow_deep(layer: int, threshold: float, **drafting) -> ExitPolicy:
    """FREE's exits: at one shallow layer, the deeper ones run in parallel."""
    return ExitPolicy(
        measure="softmax",
        threshold=threshold,
        min_layer=layer,
        max_layer=layer,
        verify="parallel",
        max_draft=16,
        **drafting,
    )


def engine_systems(num_layers: int, shortlist: int, heads: Iterable[str] = ()) -> list[System]:
    """The engine's own, but for what was calibrated. shortlist: of exits with one; heads: the model's."""
    third = max(1, round(num_layers / 3))
    listed = {"measure": "softmax", "shortlist": shortlist}
    quarter = max(1, num_layers // 4)
    first = {**listed, "threshold": 0.3, "min_layer": quarter, "max_layer": quarter * 4 // 3, "max_draft": 8}
    own = [
        *(
            System("engine", precision, ExitPolicy(), "full depth")
            for precision in ("float32", "int8", "w8a8", "int4")
        ),
        System("engine", "int8", ExitPolicy(shortlist=shortlist, shortlist_at_full_depth=True), "full depth"),
        System("engine", "int8", ExitPolicy(static_layer=third, shortlist=shortlist), "static"),
        System("engine", "int8", ExitPolicy(static_layer=2 * third, shortlist=shortlist), "static"),
        System("engine", "int8", ExitPolicy(measure="softmax", threshold=0.9), "CALM"),
        *(
            System("engine", "int8", ExitPolicy(**listed | {"measure": name}, threshold=0.9), "CALM")
            for name in ("softmax", *heads)
        ),
        System("engine", "int8", shallow_deep(third, 0.9), "FREE"),
        System("engine", "int8", shallow_deep(third, 0.9, shortlist=shortlist), "FREE"),
        System("engine", "float32", ExitPolicy(**first, verify="exact"), "exact drafts"),
        System("engine", "int8", ExitPolicy(**first, verify="exact"), "exact drafts"),
        System(
            "engine",
            "int8",
            ExitPolicy(**first, verify="exact", shortlist_at_full_depth=True),
            "drafts exact on the list",
        ),
        System(
            "engine",
            "int8",
            ExitPolicy(static_layer=third, shortlist=shortlist, verify="exact", max_draft=2),
            "exact drafts",
        ),
        System("engine", "int8", ExitPolicy(**first, verify="lenient", accept_ratio=0.3), "lenient drafts"),
    ]
    return own


def peer_systems(rows: int) -> list[System]:
    """transformers, with drafts of its own where it has them, for one text at a time; CTranslate2 with each
    of its settings, in float32 with beams too; and ONNX Runtime where ONNX_PYTHON names its Python."""
    peers = [System("generate"), *(System("generate", drafts=name) for name in PEERS if rows == 1)]
    for precision, beams in (("float32", 1), ("float32", 4), ("int8", 1)):
        peers += [
            System("ctranslate2", precision, settings=settings, beams=beams)
            for settings in ctranslate2_peer.candidates()
            if not ctranslate2_peer.is_last_resort(settings)
        ]
    if not onnx_peer.missing():
        peers += [System("onnxruntime"), System("onnxruntime", "int8")]
    return peers


def build(system: System, setting: tuple[Records], threads: int) -> Callable[[], tuple]:
    """For `Workers`: a call writes the texts of some records and gives their tokens, without the end, and
    what the engine has counted meanwhile."""
    (records,) = setting
    model, sources = _inputs(records.model, records.data, records.prefix)
    sources = sources[records.first : records.first + records.count]
    if system.policy is None:
        return _by_length(sources, partial(_of_peer, system, model, records, threads))
    options = {"max_length": records.new_tokens + 1, "num_beams": 1}
    prompts = [Source.of(torch.tensor(tokens)) for tokens in sources]

    def decode() -> tuple:
        with torch.no_grad():
            rows = decode_prompts(model, system.policy, system.precision, prompts, records.rows, options).rows
        return [without_end(row.tokens) for row in rows], counted(rows)

    return decode


def _of_peer(system: System, model, records: Records, threads: int, sources: list[list[int]]) -> Callable:
    if system.name == "ctranslate2":
        return _translating(system, model, sources, records, threads)
    if system.name == "onnxruntime":
        return _by_onnx(system, model, sources, records, threads)
    return _generating(system, model, sources, records)


def _by_length(sources: list[list[int]], make: Callable[[list[list[int]]], Callable]) -> Callable[[], tuple]:
    """A call of texts in the order of `sources`, which are written longest first: fixed batches then hold
    sources of one length, as the engine's stream begins with the longest. make: gives a call of sources."""
    order = sorted(range(len(sources)), key=lambda number: -len(sources[number]))
    call = make([sources[number] for number in order])

    def write() -> tuple:
        texts, counts = call()
        in_place = dict(zip(order, texts, strict=True))
        return [in_place[number] for number in range(len(order))], counts

    return write


def counted(rows: list[DecodedRow]) -> Counter:
    """Of some texts: new tokens, layers that were run for them, and what `Drafting` counts."""
    counts = Counter()
    for row in rows:
        counts += Counter(tokens=len(row.tokens), layers=row.layers_run)
        if row.drafting is not None:
            drafting = row.drafting
            counts += Counter(
                blocks=drafting.blocks,
                drafted=drafting.drafted,
                accepted=drafting.accepted,
                reads=drafting.reads,
            )
    return counts


def _translating(system: System, model, sources: list[list[int]], records: Records, threads: int) -> Callable:
    translate = ctranslate2_peer.translator(model, system.precision, threads).translate_batch
    named = ctranslate2_peer.named_tokens(sources)
    options = {"beam_size": system.beams, "max_decoding_length": records.new_tokens}

    def call() -> tuple:
        texts = []
        for first in range(0, len(named), records.rows):
            texts += translate(named[first : first + records.rows], **options)
        return [ctranslate2_peer.numbered_tokens(text.hypotheses[0]) for text in texts], Counter()

    return call


def _generating(system: System, model, sources: list[list[int]], records: Records) -> Callable:
    options = {"max_new_tokens": records.new_tokens, "exit_policy": None, "num_beams": 1}
    options |= {} if system.drafts is None else peer_options(model, system.drafts)

    def call() -> tuple:
        texts = []
        for tokens in batches(sources, records.rows):
            output = model.generate(input_ids=tokens, attention_mask=(tokens != 0).long(), **options)
            texts += [without_end(row) for row in output[:, 1:].tolist()]
        return texts, Counter()

    return call


def _by_onnx(system: System, model, sources: list[list[int]], records: Records, threads: int) -> Callable:
    write = onnx_peer.writer(model, system.precision, threads)

    def call() -> tuple:
        texts = []
        for tokens in batches(sources, records.rows):
            texts += write(tokens.tolist(), records.new_tokens)
        return [without_end(text) for text in texts], Counter()

    return call


def batches(sources: list[list[int]], rows: int) -> Iterator[torch.Tensor]:
    """[up to `rows`, length], filled up with 0."""
    for first in range(0, len(sources), rows):
        part = [torch.tensor(row) for row in sources[first : first + rows]]
        yield torch.nn.utils.rnn.pad_sequence(part, batch_first=True)


def without_end(tokens: list[int]) -> list[int]:
    """Up to the token that ends a text."""
    return tokens[: tokens.index(1)] if 1 in tokens else tokens


@cache
def _inputs(model_path: str, data: str, prefix: str) -> tuple:
    """Model, and source tokens of every record."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    documents = [document for document, _ in pairs(data)]
    return load_model(model_path).eval(), source_tokens(documents, tokenizer, 256, prefix)
