"""Learn then Test: which settings of an early-exit decoder keep the mean loss at most δ, with chance 1 − ε.

A loss table holds a loss in [0, 1] for each prompt (rows) and setting (columns). Settings are tested by
p-values (`early_exit.bounds`), and a procedure that controls the chance of even one false acceptance picks
those that pass. What a guarantee is about: the mean over prompts like those calibrated with, for one δ; not
each prompt, and not several δ at once. Settings, their order, ε, and the order of prompts must be fixed
before any loss is seen.

References: Angelopoulos et al., Learn then Test, 2021 (sections 2 and 3; fixed sequence and multi-start,
Bonferroni); Laufer-Goldshtein et al., Efficiently controlling multiple risks with Pareto testing, 2023;
CALM, Schuster et al. 2022, section 4.
"""

from early_exit.bounds import BOUNDS, Bound, confidence_interval, p_value, upper_bound
from early_exit.calibration.expectation import calibrate_expectation
from early_exit.calibration.monitor import Monitor
from early_exit.calibration.multiple_tests import (
    MAX_CHAINS,
    SEQUENTIAL_TESTS,
    TESTS,
    Test,
    bonferroni,
    chains,
    fallback,
    fixed_sequence,
    holm,
    knob_tests,
    multi_start,
    test_named,
    threshold_tests,
)
from early_exit.calibration.pareto import pareto_front, pareto_sequence, pareto_split, pareto_test
from early_exit.calibration.promises import GUARANTEES, Promise
from early_exit.calibration.sample_size import PromptsNeeded, prompts_for_power, prompts_needed
from early_exit.calibration.sequential import EProcess, SequentialTest
from early_exit.calibration.thresholds import (
    Calibration,
    Candidates,
    calibrate,
    calibrate_chains,
    calibrate_pareto,
    check_grid,
    check_groups,
)

__all__ = [
    "BOUNDS",
    "GUARANTEES",
    "MAX_CHAINS",
    "SEQUENTIAL_TESTS",
    "TESTS",
    "Bound",
    "Calibration",
    "Candidates",
    "EProcess",
    "Monitor",
    "Promise",
    "PromptsNeeded",
    "SequentialTest",
    "Test",
    "bonferroni",
    "calibrate",
    "calibrate_chains",
    "calibrate_expectation",
    "calibrate_pareto",
    "chains",
    "check_grid",
    "check_groups",
    "confidence_interval",
    "fallback",
    "fixed_sequence",
    "holm",
    "knob_tests",
    "multi_start",
    "p_value",
    "pareto_front",
    "pareto_sequence",
    "pareto_split",
    "pareto_test",
    "prompts_for_power",
    "prompts_needed",
    "test_named",
    "threshold_tests",
    "upper_bound",
]
