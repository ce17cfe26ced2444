"""A trained (barely) tiny model and the entry point, called in this process."""

import sys
from pathlib import Path

import pytest

from util.arguments import DataArguments
from util.report import html

ROOT = Path(__file__).parents[2]
DATA = ["--dataset_name", "embedded", "--source_prefix", "summarize: ", "--max_target_length", "12"]
QUIET = ["--report_to", "none", "--disable_tqdm", "True", "--use_cpu"]


def call(*flags: str) -> int:
    """Runs the entry point with these flags. Returns its exit code."""
    import runner  # here: quick runs of the tests do without it

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run_summarization.py", *flags])
        return runner.main(DataArguments)


def train_flags(output: Path, *more: str) -> list[str]:
    return [
        *DATA, *QUIET, "--model_shape", "tiny", "--tokenizer_vocab_size", "400", "--do_train",
        "--output_hidden_states_decoder", "True", "--intermediate_loss_fn", "weighted_ce",
        "--max_train_samples", "64", "--max_steps", "4", "--learning_rate", "1e-3",
        "--output_dir", str(output), *more,
    ]  # fmt: skip


def eval_flags(model: Path, output: Path, *more: str) -> list[str]:
    return [
        *DATA, *QUIET, "--model_name_or_path", str(model), "--do_eval", "--predict_with_generate",
        "--max_eval_samples", "3", "--output_dir", str(output), *more,
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Only tests of reports draw their figures, which takes as long as a calibration does."""
    if request.path.stem != "test_report":
        monkeypatch.setattr(html, "_svg", lambda figure: "")


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """Folder of a trained tiny model with three exits."""
    folder = tmp_path_factory.mktemp("model") / "trained"
    assert call(*train_flags(folder)) == 0
    return folder
