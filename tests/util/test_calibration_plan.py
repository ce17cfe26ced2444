import pytest

from early_exit import ExitPolicy
from util.arguments import ExitArguments
from util.calibration_arguments import CalibrationArguments
from util.calibration_plan import calibration_plan
from util.errors import UsageError


def policies(flags: dict, grid: list[str] | None = None) -> list[ExitPolicy]:
    exits = ExitArguments(use_early_exit=True, **flags)
    calibration = CalibrationArguments(do_cali=True, thresholds=[0.5, 0.9], calibrate_grid=grid)
    return [setting.policy for setting in calibration_plan(exits, calibration, seed=1).settings]


def softmax(threshold: float, **fields) -> ExitPolicy:
    return ExitPolicy(measure="softmax", threshold=threshold, **fields)


def test_flags_of_drafts_are_what_is_calibrated():
    flags = {"verify": "lenient", "accept_ratio": 0.4, "max_draft": [3], "exit_max_layer": 2}
    fields = {"verify": "lenient", "accept_ratio": 0.4, "max_draft": 3, "max_layer": 2}
    assert policies(flags) == [softmax(0.9, **fields), softmax(0.5, **fields)]
    assert policies({}) == [softmax(0.9), softmax(0.5)]


def test_knobs_of_drafts_are_combined_each_setting_once():
    found = policies({}, ["verify=none,lenient", "accept_ratio=0.9,0.5", "exit_max_layer=1"])
    lenient = [
        softmax(threshold, verify="lenient", accept_ratio=ratio, max_layer=1)
        for ratio in (0.9, 0.5)
        for threshold in (0.9, 0.5)
    ]
    assert found == [softmax(0.9, max_layer=1), softmax(0.5, max_layer=1), *lenient]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("verify=always", "unknown verify 'always'; known: none, parallel"),
        ("accept_ratio=much", "'much' is not a number"),
        ("accept_ratio=2", r"outside \[0, 1\]"),
        ("max_draft=0", "0 drafts in a block"),
        ("rollback_threshold=0.1", "unknown knob"),
    ],
)
def test_bad_knobs_are_one_line(grid, message):
    with pytest.raises((UsageError, ValueError), match=message):
        policies({"verify": "lenient"}, [grid])


def test_a_knob_that_would_be_ignored_is_refused():
    with pytest.raises(UsageError, match="accept_ratio changes no setting here"):
        policies({}, ["accept_ratio=0.9,0.5"])
    with pytest.raises(UsageError, match="max_draft changes no setting here"):
        policies({}, ["exit_min_layer=1,2", "max_draft=2,4"])


def test_more_than_sixteen_chains_are_searched_on_a_half():
    exits = ExitArguments(use_early_exit=True)
    for layers, test in (("1,2,3,4,5,6,7,8", "chains"), ("1,2,3,4,5,6,7,8,9", "pareto")):
        grid = [f"exit_min_layer={layers}", "engine_precision=float32,int8"]
        calibration = CalibrationArguments(do_cali=True, thresholds=[0.5], calibrate_grid=grid)
        plan = calibration_plan(exits, calibration, seed=1)
        assert (plan.test, len(plan.settings)) == (test, sum(plan.lengths))
