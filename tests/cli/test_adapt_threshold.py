"""FREE's adaptive threshold through the entry point."""

import json

import pytest

from tests.cli.conftest import call, eval_flags
from tests.cli.test_bad_input import fails_with

SHALLOW = [
    "--use_shallow_deep", "True", "--shallow_exit_layer", "1", "--shallow2deep_conf_threshold", "0.5",
    "--use_adapt_threshold", "True",
]  # fmt: skip


@pytest.mark.parametrize("frozen", [False, True])
def test_its_state_is_in_the_result(model, tmp_path, frozen):
    more = ["--freeze_adapt_threshold", "3"] if frozen else []
    flags = eval_flags(model, tmp_path / "e", "--max_eval_samples", "12", *SHALLOW, *more)
    assert call(*flags) == 0
    result = json.loads((tmp_path / "e" / "eval_results.json").read_text())
    state = result["eval_adapt_threshold"]
    assert (state["prompts"], state["frozen"]) == ((3, True) if frozen else (12, False))
    assert 0.3 <= state["threshold"] <= 0.9
    assert 0 <= state["agreement"] <= 1
    assert state["tokens"] >= state["prompts"]


def test_what_it_does_not_go_with(capsys, model, tmp_path):
    flags = eval_flags(model, tmp_path / "o", "--use_adapt_threshold", "True")
    fails_with(capsys, flags, "--use_adapt_threshold has no effect without --use_shallow_deep True")
    flags = eval_flags(model, tmp_path / "o", *SHALLOW, "--do_cali", "True")
    flags = [flag for flag in flags if flag != "--do_eval"]
    fails_with(capsys, flags, "--do_cali")
