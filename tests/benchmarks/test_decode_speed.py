"""decode_speed.py's systems, figures and tables, in one process, at a tiny shape."""

import json
import sys
import time

import pytest
import torch
from transformers import T5Config

from benchmarks import decode_speed, stream, systems
from benchmarks.bandwidth import step_bytes
from benchmarks.speed_report import aims
from benchmarks.systems import Setting, System
from benchmarks.text_check import LARGEST, lost_logit
from early_exit.models.t5 import EarlyExitT5

SETTING = Setting("tiny", batch=2, source=9, new_tokens=5, seed=3)


class OneProcess:
    """`Workers` without processes."""

    def __init__(self, build, threads):
        self._build = build

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def timed(self, system, *setting):
        call, begin = self._build(system, setting, 1), time.perf_counter()
        result = call()
        return time.perf_counter() - begin, result


def test_everything_is_measured_and_written(tmp_path, monkeypatch, capsys):
    path = tmp_path / "speed.json"
    sizes = "--batch 1 2 --source 8 --new-tokens 4 --prompts 5 --rounds 1"
    sizes += f" --threads {torch.get_num_threads()}"
    flags = f"--shape tiny {sizes} --peers --precisions float32 int8 --parts systems stream lengths --quick"
    monkeypatch.setattr(sys, "argv", ["decode_speed.py", *flags.split(), "--json", str(path)])
    monkeypatch.setattr(decode_speed, "Workers", OneProcess)
    decode_speed.main()
    results = json.loads(path.read_text())
    assert results["environment"]["seed"] == 1
    assert results["environment"]["kernels"]
    assert all(row["lost_logit"] <= LARGEST for row in results["rows"] if "lost_logit" in row)
    decoders = [row for row in results["rows"] if "times_floor" in row]
    assert {(row["batch"], row["precision"]) for row in decoders} == {
        (batch, precision) for batch in (1, 2) for precision in ("float32", "int8")
    }
    assert all(row["same_texts"] == 1 for row in results["stream"])
    printed = capsys.readouterr().out
    assert all(line["name"] in printed for line in results["aims"])
    assert path.with_suffix(".png").stat().st_size > 0


@pytest.mark.parametrize("name", ["generate", "engine", "decoder"])
def test_systems_write_the_models_text(name):
    model, source = systems.random_model("tiny"), systems.random_source(SETTING)
    texts = systems.build(System(name), SETTING, 1)()["tokens"]
    expected = model.generate(input_ids=source, max_new_tokens=5, exit_policy=None)[:, 1:]
    assert texts == expected.tolist()
    assert lost_logit(model, source, texts) < 1e-6


def test_wrong_texts_are_told():
    model, source = systems.random_model("tiny"), systems.random_source(SETTING)
    texts = systems.build(System("generate"), SETTING, 1)()["tokens"]
    swapped = [texts[1], texts[0]]  # each row's text is the other prompt's
    assert lost_logit(model, source, swapped) > LARGEST
    assert lost_logit(model, source, [[token + 1 for token in text] for text in texts]) > 0.5


@pytest.mark.parametrize("layers", [6, 12, 24])
def test_drawn_layers_have_a_mean_of_a_third(layers):
    drawn = systems.ragged_layers(layers, 200, 200, seed=0)
    assert drawn.float().mean() == pytest.approx(layers / 3, rel=0.02)
    assert (drawn.min(), drawn.max()) == (1, layers)
    assert torch.equal(drawn, systems.ragged_layers(layers, 200, 200, seed=0))


def test_generate_with_a_static_cache_writes_the_models_texts(monkeypatch):
    torch.manual_seed(1)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 3}
    model = EarlyExitT5(T5Config(vocab_size=systems.VOCABULARY, decoder_start_token_id=0, **sizes)).eval()
    monkeypatch.setattr(systems, "random_model", lambda shape: model)
    texts = [
        systems.build(System(name), SETTING, 1)()["tokens"] for name in ("generate compiled", "generate")
    ]
    assert texts[0] == texts[1]


def test_parts_that_are_about_cpus_are_refused_on_other_devices(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["decode_speed.py", "--device", "cuda"])
    with pytest.raises(SystemExit):
        decode_speed.read_options()
    assert "name --parts systems stream" in capsys.readouterr().err


def test_static_schedules_leave_at_different_layers():
    assert systems.static_schedules(6) == ["1/3", "1/6"]  # a quarter of six layers is two, as a third
    assert systems.static_schedules(12) == ["1/3", "1/4", "1/6"]


def test_bytes_of_a_step():
    model = systems.random_model("tiny")
    config, layers = model.config, len(model.decoder.block)
    width, d_model = config.num_heads * config.d_kv, config.d_model
    products = layers * d_model * (4 * width + 2 * width + 2 * config.d_ff)
    norms = (3 * layers + 1) * d_model
    head = config.vocab_size * d_model
    read = step_bytes(model, "int8", rows=2, source=10, new_tokens=8, cache_bytes=4)
    biases = config.relative_attention_num_buckets * config.num_heads
    assert read["weights"] == pytest.approx(products + norms + head, abs=biases)
    assert read["keys_and_values"] == 2 * layers * 2 * (10 + 4) * width * 4
    assert step_bytes(model, "float32", 2, 10, 8, 4)["weights"] == 4 * read["weights"]


@pytest.mark.parametrize("schedule", ["full", "ragged"])
def test_streams_end_where_drawn_and_do_not_depend_on_the_way(schedule):
    setting = Setting("tiny", batch=7, source=64, new_tokens=16, seed=2)
    ways = [stream.Stream(way, 3, "float32", schedule) for way in ("continuous", "fixed")]
    continuous, fixed = (stream.build(way, setting, 1)()["tokens"] for way in ways)
    assert continuous == fixed
    assert [len(text) for text in fixed] == stream.drawn_lengths(setting)[1].tolist()


def test_an_aim_compares_within_turns():
    rows = [
        {"batch": 8, "system": name, "precision": "int8", "schedule": "full", "seconds": seconds}
        for name, seconds in (("engine", [1.0, 4.0, 3.0]), ("ctranslate2", [2.0, 4.0, 30.0]))
    ]
    (aim,) = aims(rows, [])
    assert aim == {"name": "batch 8: engine int8 / ctranslate2 int8", "aim": 0.4, "measured": 0.5}
