"""Bad input: one clear line, exit code 2, nothing written."""

import errno
import json
import subprocess

import pytest

from tests.cli.conftest import DATA, QUIET, ROOT, call, eval_flags, train_flags
from util import run_folder

EARLY = ["--use_early_exit", "True", "--exit_conf_type", "softmax"]


def fails_with(capsys, flags, message):
    assert call(*map(str, flags)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--exit_conf_type", "sofmax"], "unknown confidence measure 'sofmax'; known: softmax,"),
        ([*EARLY, "--exit_conf_threshold", "1.2"], "threshold 1.2 is outside [0, 1]"),
        ([*EARLY, "--exit_conf_threshold", "-0.5"], "threshold -0.5 is outside [0, 1]"),
        ([*EARLY, "--exit_conf_threshold", "nan"], "threshold nan is outside [0, 1]"),
        ([*EARLY, "--exit_min_layer", "-1"], "minimum exit layer -1"),
        (["--static_exit_layer", "0"], "static exit layer 0"),
        (
            ["--static_exit_layer", "1", "--engine_precision", "int3"],
            "known: float32, bfloat16, int8, w8a8, int4",
        ),
        (["--engine_precision", "int8"], "--engine_precision has no effect without --deploy_scenario"),
        (["--static_exit_layer", "4"], "static exit layer 4 is outside 1 to 3"),
        (["--static_exit_layer", "two"], "'two' is neither a layer number nor 'all'"),
        (["--static_exit_layer", "4", "--use_early_exit", "True"], "static exit layer 4 is outside 1 to 3"),
        (["--static_exit_layer", "2", "--num_beams", "4"], "without beams, got --num_beams 4"),
        ([*EARLY, "--intermediate_loss_fn", "weighted_ce"], "needs --output_hidden_states_decoder"),
        (["--intermediate_loss_fn", "kd"], "unknown --intermediate_loss_fn 'kd'; known: weighted_ce, ce,"),
        (["--validation_file", "x.json"], "contradict each other"),
        (["--model_shape", "tiny"], "exactly one of --model_name_or_path and --model_shape"),
        (["--max_eval_samples", "0"], "--max_eval_samples 0 is too small; allowed: 1 and above"),
        (["--label_smoothing_factor", "0.1"], "--label_smoothing_factor"),
        (["--fp16"], "use --bf16"),
        (["--exit_conf_threshold", "0.5", "0.9"], "no effect without --use_early_exit"),
        (["--generation_max_length", "1"], "at most 1 tokens"),
        (["--static_exit_layer", "1", "--retime", "True"], "--retime has no effect without a sweep"),
        (["--no_such_flag", "1"], "--no_such_flag"),
    ],
)  # fmt: skip
def test_bad_flags(capsys, model, tmp_path, more, message):
    output = tmp_path / "output"
    fails_with(capsys, eval_flags(model, output, *more), message)
    assert not output.exists()


def test_nothing_to_do(capsys, model, tmp_path):
    flags = [flag for flag in eval_flags(model, tmp_path / "output") if flag != "--do_eval"]
    fails_with(capsys, flags, "nothing to do")


def test_exit_flags_without_generation(capsys, model, tmp_path):
    flags = [flag for flag in eval_flags(model, tmp_path / "o", *EARLY) if flag != "--predict_with_generate"]
    fails_with(capsys, flags, "add --predict_with_generate")


def test_unknown_shape(capsys, tmp_path):
    flags = [flag if flag != "tiny" else "huge" for flag in train_flags(tmp_path / "output")]
    fails_with(capsys, flags, "unknown model shape 'huge'; known: tiny, small")


@pytest.mark.parametrize("kind", ["missing", "empty folder", "other type", "no weights", "broken weights"])
def test_a_path_that_is_no_model(capsys, model, tmp_path, kind):
    path = tmp_path / "model"
    if kind != "missing":
        path.mkdir()
    if kind == "other type":
        (path / "config.json").write_text('{"model_type": "bert"}')
    if kind in ("no weights", "broken weights"):
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (path / name).write_bytes((model / name).read_bytes())
    if kind == "broken weights":
        (path / "model.safetensors").write_bytes(b"not tensors")
    fails_with(capsys, eval_flags(path, tmp_path / "output"), f"cannot load '{path}'")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ('{"text": "a", "title": "b"}', "--text_column; there are: text, title"),
        (None, "no such file"),
    ],
)
def test_bad_data_files(capsys, model, tmp_path, content, message):
    file = tmp_path / "validation.json"
    if content is not None:
        file.write_text(content)
    flags = eval_flags(model, tmp_path / "output", "--validation_file", str(file))
    del flags[flags.index("--dataset_name") : flags.index("--dataset_name") + 2]
    fails_with(capsys, flags, message)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("flags_of", ["train", "evaluate"])
def test_a_folder_in_use_stays_as_it_is(capsys, model, tmp_path, flags_of):
    (tmp_path / "model.safetensors").write_text("precious")
    flags = train_flags(tmp_path) if flags_of == "train" else eval_flags(model, tmp_path)
    fails_with(capsys, flags, "not empty")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["precious"]


def test_bad_settings_files(capsys, tmp_path):
    fails_with(capsys, ["nowhere.json"], "nowhere.json")
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"output_dir": "x", "exit_layer": 3}))
    fails_with(capsys, [file], "exit_layer")
    file.write_text("{")
    fails_with(capsys, [file], str(file))
    file.write_text("[1, 2]")
    fails_with(capsys, [file], str(file))
    file.write_text(json.dumps({"output_dir": "x", "exit_conf_threshold": "high"}))
    fails_with(capsys, [file], "exit_conf_threshold: 'high' is not a number")
    file.write_text(json.dumps({"output_dir": "x", "learning_rate": "fast"}))
    fails_with(capsys, [file], "'fast' is not a number")
    file = tmp_path / "settings.yaml"
    file.write_text("output_dir: [")
    fails_with(capsys, [file], str(file))


def test_the_process_exits_with_2(python, tmp_path):
    flags = eval_flags(tmp_path / "no-model", tmp_path / "output", "--static_exit_layer", "-1")
    done = subprocess.run([python, "run_summarization.py", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("run_summarization.py: error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("place", ["a file", "under a file", "read-only"])
@pytest.mark.parametrize("kind", ["train", "evaluate", "sweep", "calibrate"])
def test_a_folder_that_cannot_be_written_into_is_named_first(
    capsys, monkeypatch, model, tmp_path, place, kind
):
    file = tmp_path / "file"
    file.write_text("precious")
    output = {"a file": file, "under a file": file / "deep" / "er", "read-only": tmp_path / "new"}[place]
    if place == "read-only":

        def refuse(dir):
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", refuse)  # tests may run as root
    flags = {
        "train": lambda: train_flags(output, "--overwrite_output_dir"),
        "evaluate": lambda: eval_flags(model, output, "--overwrite_output_dir"),
        "sweep": lambda: eval_flags(model, output, "--static_exit_layer", "all"),
        "calibrate": lambda: [
            *DATA, *QUIET, "--model_name_or_path", model, "--do_cali", "True", "--max_calibrate_samples", "4",
            "--predict_with_generate", *EARLY, "--output_dir", output,
        ],
    }[kind]()  # fmt: skip
    fails_with(capsys, flags, str(tmp_path if place == "read-only" else file))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "precious"
