"""Attempts on the same prompts are counted, whoever makes them and wherever they are noted."""

import math

import pytest

from util.ledger import LEDGER_FILE, Ledger

PROMPTS = [f"{number:016x}" for number in range(6)]


def run(ledger, name, prompts=PROMPTS, epsilon=0.05, spends=False):
    attempt = ledger.attempt({"what": name}, prompts, epsilon, spends)
    ledger.start({"what": name}, prompts, attempt)
    ledger.finish({"what": name}, prompts, [{"certified": False}])
    return attempt


def test_attempts_count_and_the_same_one_again_does_not(tmp_path):
    ledger = Ledger([tmp_path])
    assert [run(ledger, name).number for name in ("a", "b", "a", "c", "b")] == [1, 2, 1, 3, 2]
    third = run(ledger, "c")
    assert third.together == pytest.approx(0.15)
    assert run(ledger, "a", [*reversed(PROMPTS)]).number == 1  # the order of prompts is nobody's choice


def test_prompts_in_common_are_enough(tmp_path):
    ledger = Ledger([tmp_path])
    run(ledger, "a")
    assert run(ledger, "b", ["other", PROMPTS[3]]).number == 2
    assert run(ledger, "a", ["another"]).number == 1


def test_spending_keeps_epsilon_for_all_attempts_together(tmp_path):
    ledger = Ledger([tmp_path])
    found = [run(ledger, number, spends=True) for number in range(40)]
    assert [each.epsilon for each in found[:2]] == pytest.approx(
        [0.05 * 6 / math.pi**2, 0.05 * 1.5 / math.pi**2]
    )
    assert found[-1].together < 0.05
    assert run(ledger, 3, spends=True) == found[3]


def test_either_ledger_is_enough_and_bad_lines_are_named(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    run(Ledger([one, two]), "a")
    (one / LEDGER_FILE).unlink()
    assert run(Ledger([one, two]), "b").number == 2
    with (one / LEDGER_FILE).open("a") as file:
        file.write('{"attempt": "cut o')
    with pytest.warns(UserWarning, match="line 3 is no attempt"):
        assert run(Ledger([one]), "c").number == 2
    with pytest.warns(UserWarning, match="line 3 is no attempt"):
        assert run(Ledger([one]), "d").number == 3  # what follows a line that was cut off counts
    (tmp_path / "two").chmod(0o555)  # even the administrator leaves it alone
    before = (two / LEDGER_FILE).read_text()
    with pytest.warns(UserWarning, match="no attempt is noted in .*read-only"):
        run(Ledger([two]), "e")
    assert (two / LEDGER_FILE).read_text() == before
    with pytest.warns(UserWarning, match="no attempt is noted"):
        assert run(Ledger([tmp_path / "nowhere"]), "a").number == 1


def test_a_repetition_keeps_its_number_whatever_other_models_have_tried(tmp_path):
    """Each model has a ledger of its own beside the one of the data."""
    places = [tmp_path / name for name in ("a", "b", "data")]
    for place in places:
        place.mkdir()
    first, second = Ledger([places[0], places[2]]), Ledger([places[1], places[2]])
    run(first, "model a", spends=True)
    once = run(second, "model b", spends=True)
    assert once.number == 2
    assert run(second, "model b", spends=True) == once
    third = run(first, "model a again", spends=True)
    assert (third.number, run(first, "model a", spends=True).number) == (3, 1)
    assert third.together < 0.05


def test_line_separators_in_a_name_end_no_line(tmp_path):
    ledger = Ledger([tmp_path])
    run(ledger, "a\u2028b")
    assert run(ledger, "c").number == 2
