from dataclasses import replace

import numpy as np
import pytest

from early_exit import ExitPolicy
from tests.tiny import MODELS
from util import calibration_plan as calibration_plan_module
from util.calibration_arguments import CalibrationArguments
from util.calibration_plan import ReferenceModel
from util.errors import UsageError
from util.exit_arguments import ExitArguments
from util.plan_of_flags import calibration_plan


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


def test_static_layers_are_knobs_that_ask_nobody_where_nobody_may_leave_before():
    plan = plan_of(["static_exit_layer=none,2,3", "exit_min_layer=1,2", "verify=none,exact"], [1.0, 0.5])
    found = [[plan.settings[number].policy for number in chain] for chain in plan.chains]
    drafts = {"verify": "exact", "max_draft": 6}
    assert found == [
        [softmax(1.0, min_layer=1), softmax(0.5, min_layer=1)],
        [softmax(1.0, min_layer=1, **drafts), softmax(0.5, min_layer=1, **drafts)],
        [softmax(1.0, min_layer=2), softmax(0.5, min_layer=2)],
        [softmax(1.0, min_layer=2, **drafts), softmax(0.5, min_layer=2, **drafts)],
        [ExitPolicy(static_layer=2), softmax(0.5, min_layer=1, static_layer=2)],
        [ExitPolicy(static_layer=3), softmax(0.5, min_layer=1, static_layer=3)],
        [softmax(0.5, min_layer=2, static_layer=3)],
    ]
    assert plan.measure == "softmax"
    without_one = plan_of(
        ["static_exit_layer=none,2"], [0.5]
    )  # a layer for itself is tested whatever the grid
    assert [setting.policy for setting in without_one.settings][1:] == [
        ExitPolicy(static_layer=2),
        softmax(0.5, static_layer=2),
    ]
    only = plan_of(["static_exit_layer=1"], [1.0, 0.5])
    assert [setting.policy for setting in only.settings] == [ExitPolicy(static_layer=1)]
    assert only.measure == "static layers"


def test_a_decaying_threshold_of_one_lets_tokens_leave_before_their_static_layer():
    (policy, _) = policies({"static_exit_layer": ["2"], "exit_position_temp": 4.0, "shortlist": ["9"]})
    assert policy == softmax(0.9, static_layer=2, position_temperature=4.0, shortlist=9)
    decaying = ExitArguments(use_early_exit=True, static_exit_layer=["2"], exit_position_temp=4.0)
    calibration = CalibrationArguments(do_cali=True, thresholds=[1.0])
    (setting,) = calibration_plan(decaying, calibration, seed=1).settings
    assert setting.policy == softmax(1.0, static_layer=2, position_temperature=4.0)


def test_a_ratio_makes_no_second_chain_of_what_does_not_read_it():
    plan = plan_of(["verify=none,lenient,parallel,exact,rollback", "accept_ratio=0.9,0.3"])
    kinds = [plan.settings[chain[0]].policy for chain in plan.chains]
    assert [each.verify for each in kinds] == [None, "lenient", "lenient", "parallel", "exact", "rollback"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("verify=always", "unknown verify 'always'; known: none, parallel"),
        ("accept_ratio=much", "'much' is not a number"),
        ("accept_ratio=2", r"outside \[0, 1\]"),
        ("max_draft=0", "0 drafts in a block"),
        ("static_exit_layer=all", "static_exit_layer 'all' is not a whole number"),
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


def plan_of(grid: list[str], thresholds=(0.9, 0.5)):
    calibration = CalibrationArguments(do_cali=True, thresholds=list(thresholds), calibrate_grid=grid)
    return calibration_plan(ExitArguments(use_early_exit=True), calibration, seed=1)


def test_exact_drafts_share_no_chance_of_error_and_are_picked_where_they_are_cheapest():
    with_exact, without = plan_of(["verify=none,parallel,exact"]), plan_of(["verify=none,parallel"])
    model, prompts = MODELS["t5"], 60
    losses = np.random.default_rng(1).binomial(1, [0.0, 0.05, 0.0, 0.5, 0.0, 0.0], (prompts, 6)) * 0.4
    layers = [np.full(prompts, ran) for ran in (3.0, 2.0, 2.5, 1.5, 2.8, 1.8)]
    found = with_exact.certify(losses, layers, 0.1, model)
    alone = without.certify(losses[:, :4], layers[:4], 0.1, model)
    assert found.p_values == alone.p_values
    assert set(found.accepted) == {*alone.accepted, 4, 5}
    assert (found.index, found.by_construction) == (5, True)
    assert with_exact.rivals(found, layers, model)[-1] == 5
    timed = np.array([np.inf, 1.0, 2.0, np.inf, np.inf, 3.0])
    slower = with_exact.certify(losses, layers, 0.1, model, costs=timed)
    assert (slower.index, slower.by_construction) == (1, False)
    # Drafts that wrote other texts, or are exact to another precision than the reference's, are tested.
    losses[:, 4:] = 0.01
    assert with_exact.lossless(losses, model) == []
    assert plan_of(["verify=exact", "engine_precision=int8"]).lossless(np.zeros((9, 2)), model) == []
    assert plan_of(["verify=exact"], [1.0, 0.5]).lossless(np.zeros((9, 2)), model) == [1]


def test_only_compiled_kernels_keep_full_depths_text_by_construction(monkeypatch):
    plan, model = plan_of(["verify=exact"], [0.9, 0.5]), MODELS["t5"]
    assert plan.lossless(np.zeros((60, 2)), model) == [0, 1]
    monkeypatch.setattr(calibration_plan_module, "has_native", lambda device: False)
    assert plan.lossless(np.zeros((60, 2)), model) == []
    found = plan.certify(np.zeros((60, 2)), [np.full(60, 3.0), np.full(60, 2.0)], 0.1, model)
    assert (found.index, found.by_construction, len(found.p_values)) == (1, False, 2)
    assert plan_of(["verify=none,exact"])._level(model) == found.epsilon / 2


def test_exact_drafts_are_all_compared_though_few_prompts_could_certify_nothing():
    plan, model = plan_of(["verify=none,exact"], [0.9, 0.5]), MODELS["t5"]
    plan = replace(plan, deltas=[0.05])
    losses = np.full((40, 4), np.nan)
    losses[:, 0] = 0.01  # tested, and not certified by 40 prompts
    assert plan.settled(losses, plan.chains[0], model)
    losses[:, 2] = 0.0
    assert not plan.settled(losses, plan.chains[1], model)


def test_groups_are_promised_each():
    plan = replace(plan_of(["verify=none,lenient"], [0.9]), deltas=[0.1])
    groups = ["a"] * 180 + ["b"] * 20
    plan.check_groups(groups)
    plan.check_groups(None)
    with pytest.raises(UsageError, match="--group_column: 1 prompts of group 'c'; at least 2 are needed"):
        plan.check_groups([*groups, "c"])
    with pytest.raises(UsageError, match="3 prompts of group 'c'; at least 4 are needed"):
        replace(plan, test="pareto").check_groups([*groups, "c", "c", "c"])
    drawn = np.random.default_rng(0)
    losses = np.where(np.array(groups) == "a", 0.01, 0.05) * drawn.binomial(1, 0.5, 200) * 2
    needed, alone = (plan.prompts_needed(losses, 0.1, MODELS["t5"], *more) for more in ([groups], []))
    hard = plan.prompts_needed(losses[180:], 0.1, MODELS["t5"])
    assert (needed.group, alone.group) == ("b", None)
    assert needed.n == pytest.approx(10 * hard.n, abs=10)  # a tenth of the prompts is of that group
    losses[180:] = 0.5
    assert plan.prompts_needed(losses, 0.1, MODELS["t5"], groups).n is None


def test_against_another_models_texts_everything_is_tested():
    """Full depth and exact drafts write their own model's text, not the other one's."""
    plan = replace(plan_of(["verify=none,exact"], [1.0, 0.5]), reference=ReferenceModel("other", "hash"))
    assert plan.full_depth(4) == [False] * 4
    assert plan.lossless(np.zeros((9, 4)), MODELS["t5"]) == []
    losses, layers = np.zeros((60, 4)), [np.full(60, 4.0)] * 4
    found = plan.certify(losses, layers, 0.1, MODELS["t5"])
    own = plan_of(["verify=none,exact"], [1.0, 0.5]).certify(losses, layers, 0.1, MODELS["t5"])
    assert (len(found.p_values), found.accepted, found.by_construction) == (4, [0, 1, 2, 3], False)
    assert found.level == pytest.approx(0.05 / 2)  # of two chains
    assert own.level == pytest.approx(0.05)
    assert plan.identity() != replace(plan, reference=ReferenceModel("other", "another")).identity()


def test_exact_drafts_alone_need_no_test():
    plan = plan_of(["verify=exact"])
    found = plan.certify(np.zeros((5, 2)), [np.full(5, 3.0), np.full(5, 2.0)], 0.01, MODELS["t5"])
    assert (found.index, found.by_construction, found.n) == (1, True, 0)
