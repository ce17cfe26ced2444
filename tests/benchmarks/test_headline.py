"""Turns and ratios of the headline, with systems whose times are known."""

from collections import Counter

import pytest

from benchmarks.headline import REFERENCE, described, take_turns, those_of
from benchmarks.headline_systems import Records, System
from early_exit import ExitPolicy

INT8 = System("engine", "int8", ExitPolicy(), "full depth")
EXITS = System("engine", "int8", ExitPolicy(static_layer=1), "static")
GENERATE = System("generate")
BEAMS = System("ctranslate2", "float32", beams=4)
SECONDS = {REFERENCE: 4.0, INT8: 2.0, EXITS: 1.0, GENERATE: 16.0, BEAMS: 8.0}


class Known:
    """Workers whose systems take a known time, and write a known text for each record."""

    def __init__(self):
        self.calls = Counter()

    def timed(self, system, records):
        self.calls[system] += 1
        disturbed = 10 if self.calls[system] == 3 else 1  # the third call, of all systems
        texts = [[number, 7, 8, 9] for number in range(records.first, records.first + records.count)]
        if system == EXITS and records.first == 0:
            texts[0] = [96, 97, 98, 99]
        return disturbed * SECONDS[system] * records.count, (texts, Counter(tokens=2 * records.count))


class Numbers:
    """A tokenizer whose words are numbers."""

    def batch_decode(self, rows, skip_special_tokens):
        return [" ".join(f"w{token}" for token in row) for row in rows]


def test_ratios_are_medians_over_turns_and_peers_with_beams_write_the_first_records_alone():
    members, records = list(SECONDS), Records("", "", "", 0, 2, 1, 8)
    runs = take_turns(Known(), members, records, total=9, beside=3)
    assert [len(run.texts) for run in runs] == [9, 9, 9, 9, 4]
    assert [len(run.seconds) for run in runs] == [5, 5, 5, 5, 2]  # the last turn is of one record
    references = [f"w{number} w7 w8 w9" for number in range(9)]
    rows = described(runs, references, Numbers(), rows=1, risk="rouge")
    _, int8, exits, generate, beams = rows
    assert exits["times_own_int8"]["median"] == pytest.approx(2)
    assert exits["times_generate"]["median"] == pytest.approx(16)
    assert int8["times_generate"]["median"] == pytest.approx(8)
    assert beams["times_generate"]["median"] == pytest.approx(2)
    assert (beams["records"], beams["same_texts"], beams["bleu"]) == (4, 1.0, pytest.approx(100))
    assert exits["textual_loss"] == exits["risk_loss"] == pytest.approx(1 / 9)
    assert (exits["same_texts"], generate["textual_loss"]) == (pytest.approx(8 / 9), 0)
    assert "times_ctranslate2_int8" not in exits  # it was not there
    assert (str(BEAMS), str(GENERATE)) == ("ctranslate2, 4 beams", "generate")


def test_peers_of_an_earlier_run_come_with_its_settings():
    slow, fast = (System("ctranslate2", "int8", settings=(("CT2_USE_MKL", each),)) for each in "01")
    timed = [
        {"system": "ctranslate2", "precision": "int8", "settings": {"CT2_USE_MKL": "1"}, "rows": 1},
        {"system": "ctranslate2, 4 beams", "precision": "float32", "settings": {}, "rows": 1},
        {"system": "generate", "precision": "float32", "settings": {}, "rows": 8},
    ]
    assert those_of({"rows": timed}, [GENERATE, slow, fast, BEAMS], rows=1) == [fast, BEAMS]
