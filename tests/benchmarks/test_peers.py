"""Which setting of a peer is compared: workers whose systems take a known time."""

from dataclasses import dataclass

import pytest

from benchmarks import ctranslate2_peer
from benchmarks.headline import REFERENCE, right_peers
from benchmarks.headline_systems import Records, System
from benchmarks.peers import fastest_right

SETTINGS = [(("KIND", name),) for name in ("slow", "fast", "wrong", "broken")]
LAST = ctranslate2_peer.candidates()[-1]
RECORDS = Records("", "", "", 0, 10, 1, 8)


@dataclass
class Known:
    """Workers: seconds by setting, and what a call gives; "broken" does not run."""

    seconds: dict
    results: dict

    def __post_init__(self):
        self.tried, self.ended = [], []

    def timed(self, system, *setting):
        self.tried.append(system)
        kind = dict(system.settings).get("KIND", "last" if system.settings else "other")
        if kind == "broken":
            raise RuntimeError("no such instruction\nsecond line")
        return self.seconds.get(kind, 1.0), self.results.get(kind, "right")

    def end(self, process):
        self.ended.append(process)


def check(result):
    if result != "right":
        raise ValueError(f"it wrote {result}")


def systems(*settings, name="ctranslate2"):
    return [System(name, "int8", settings=each) for each in settings]


def test_the_fastest_that_is_right_counts_and_the_processes_of_the_others_end():
    workers = Known({"slow": 3.0, "fast": 2.0, "wrong": 0.1}, {"wrong": "nonsense"})
    tried = systems(*SETTINGS, LAST)
    best, seconds, left_out = fastest_right(workers, tried, ("a setting",), check)
    slow, fast, wrong, broken, last = tried
    assert (best, seconds) == (fast, 2.0)
    assert [each["reason"] for each in left_out] == ["it wrote nonsense", "no such instruction"]
    assert last not in workers.tried
    assert workers.ended == [slow.process, wrong.process, broken.process]


def test_the_last_resort_is_for_where_no_other_is_right():
    workers = Known({}, {"wrong": "nonsense"})
    tried = systems(SETTINGS[2], LAST)
    assert fastest_right(workers, tried, (), check)[0] == tried[1]
    assert fastest_right(workers, tried[:1], (), check)[0] is None


def test_the_process_that_others_share_goes_on():
    workers = Known({}, {"wrong": "nonsense"})
    fastest_right(workers, systems(SETTINGS[2], name="generate"), (), check)
    assert workers.ended == []


@pytest.mark.parametrize(("precision", "least"), [("float32", 9), ("int8", 7)])
def test_a_headline_peer_writes_nearly_full_depths_texts(precision, least):
    expected = [[number] for number in range(10)]

    def texts(equal):
        return expected[:equal] + [[99]] * (10 - equal), None

    results = {"other": (expected, None), "slow": texts(least), "fast": texts(least - 1)}
    workers = Known({"slow": 3.0, "fast": 2.0}, results)
    slow, fast = (System("ctranslate2", precision, settings=each) for each in SETTINGS[:2])
    beams = System("ctranslate2", precision, settings=SETTINGS[1], beams=4)
    chosen, left_out = right_peers(workers, [slow, fast, beams], RECORDS)
    assert workers.tried[0] == REFERENCE
    assert chosen == [slow, beams]  # beams may write other texts
    assert left_out == [{"system": "ctranslate2", "reason": f"{least - 1}0% of its texts are full depth's"}]


@pytest.mark.parametrize(("seconds", "kept"), [(3.0, False), (1.0, True), (0.5, True)])
def test_int8_that_is_slower_than_float32_is_no_peer(seconds, kept):
    workers = Known({"slow": seconds, "fast": 1.0}, {})
    int8, float32 = System("ctranslate2", "int8", settings=SETTINGS[0]), System("ctranslate2")
    expected = [[1]] * 10
    workers.results = {"other": (expected, None), "slow": (expected, None)}
    chosen, left_out = right_peers(workers, [float32, int8], RECORDS)
    assert chosen == ([float32, int8] if kept else [float32])
    assert [each["reason"] for each in left_out] == ([] if kept else ["slower than its float32"])
    assert (int8.process in workers.ended) == (not kept)
