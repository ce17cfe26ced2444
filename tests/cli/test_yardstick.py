"""A trained checkpoint that is not ours, whose scores somebody else measured with other code."""

import json

import pytest

from tests.cli.conftest import QUIET, ROOT, call

CHECKPOINT = ROOT.parent / "shared" / "checkpoints" / "e2e-small"
DATA = ROOT.parent / "shared" / "data" / "e2e" / "validation.json"
# ROUGE-L of static exits on the first 96 records, greedy, at most 64 tokens; from the checkpoint's notes.
ROUGE_L = {1: 26.6, 3: 38.1, 6: 39.9}


@pytest.mark.skipif(not (CHECKPOINT.exists() and DATA.exists()), reason=f"needs {CHECKPOINT} and {DATA}")
def test_static_exits_score_what_was_measured_elsewhere(tmp_path):
    assert call(
        *QUIET, "--model_name_or_path", str(CHECKPOINT), "--validation_file", str(DATA),
        "--source_prefix", "summarize: ", "--max_target_length", "64", "--max_eval_samples", "96",
        "--do_eval", "--predict_with_generate", "--per_device_eval_batch_size", "32",
        "--static_exit_layer", *map(str, ROUGE_L), "--output_dir", str(tmp_path),
    ) == 0  # fmt: skip
    points = json.loads((tmp_path / "sweep.json").read_text())["points"]
    measured = [point["metrics"]["eval_rougeL"] for point in points]
    assert measured == pytest.approx(list(ROUGE_L.values()), abs=0.15)
