"""generate.py: texts are those of `model.generate`, whichever way they come in and go out."""

import io
import json
import shutil
import sys

import pytest
from transformers import AutoTokenizer

import generate
from early_exit import DecodingSetting, ExitPolicy, load_model
from early_exit.models.calibrated import Certified
from early_exit.models.effective_generation import greedy_generation
from early_exit.models.exit_heads import fingerprint
from util.corpus import generate as corpus
from util.files import read_json, write_json
from util.generate_arguments import GenerateArguments, read_texts

TEXTS = [row["document"] for row in corpus("validation")[:3]]
SOFTMAX = ("--exit_conf_threshold", "0.02")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def call(*flags, stdin: str = "", stdout=None) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["generate.py", *map(str, flags)])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        patch.setattr(generate.warnings, "showwarning", generate.warnings.showwarning)  # is put back
        if stdout is not None:
            patch.setattr(sys, "stdout", stdout)
        return generate.main()


def expected(folder, prompt: str, **options):
    """Tokens, exit layers and text by `generate`, as the training's settings have it."""
    model, tokenizer = load_model(str(folder)).eval(), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("summarize: " + prompt, return_tensors="pt", truncation=True, max_length=512)
    settings = {"max_length": 12, "return_dict_in_generate": True, **options}
    output = model.generate(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, **settings)
    text = tokenizer.decode(output.sequences[0], skip_special_tokens=True)
    return output.sequences[0, 1:].tolist(), output.exit_layers[0].tolist(), text


@pytest.mark.parametrize(
    ("flags", "policy"),
    [
        ((), ExitPolicy()),
        (SOFTMAX, ExitPolicy(measure="softmax", threshold=0.02)),
        (
            (*SOFTMAX, "--exit_conf_type", "hidden_state", "--exit_min_layer", "2"),
            ExitPolicy(measure="hidden_state", threshold=0.02, min_layer=2),
        ),
        (
            ("--static_exit_layer", "1", "--verify", "exact", "--max_draft", "3"),
            ExitPolicy(static_layer=1, verify="exact", max_draft=3),
        ),
    ],
)
def test_texts_are_those_of_generate(model, flags, policy, capsys):
    assert call("--model_name_or_path", model, "--json", *flags, stdin="\n".join(TEXTS) + "\n") == 0
    out, err = capsys.readouterr()
    results = [json.loads(line) for line in out.splitlines()]
    assert len(results) == len(TEXTS)
    for prompt, result in zip(TEXTS, results, strict=True):
        tokens, layers, text = expected(model, prompt, exit_policy=policy)
        assert (result["tokens"], result["exit_layers"]) == (tokens, layers)
        assert result["text"] == "".join(result["pieces"]) == text
        assert len(result["confidences"]) == len(tokens)
        assert result["milliseconds"] > 0
    assert err.startswith("3 texts, ")


def test_a_text_of_an_argument_a_file_and_standard_input_is_the_same(model, tmp_path, capsys):
    plain, table = tmp_path / "prompts.txt", tmp_path / "prompts.json"
    plain.write_text(TEXTS[0] + "\n", encoding="utf-8")
    write_json(table, [{"report": TEXTS[0]}])
    base = ("--model_name_or_path", model, *SOFTMAX)
    outputs = []
    for flags in ((TEXTS[0],), ("--file", plain), ("--file", table, "--text_column", "report")):
        assert call(*base, *flags) == 0
        outputs.append(capsys.readouterr().out)
    assert call(*base, stdin=TEXTS[0] + "\n") == 0
    outputs.append(capsys.readouterr().out)
    text = expected(model, TEXTS[0], exit_policy=ExitPolicy(measure="softmax", threshold=0.02))[2]
    assert outputs == [" ".join(text.split()) + "\n"] * 4


def test_a_terminal_gets_a_stream_and_colours(model, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    tokens, _, text = expected(model, TEXTS[0], exit_policy=ExitPolicy(measure="softmax", threshold=0.02))
    stream, colours = Terminal(), Terminal()
    assert call("--model_name_or_path", model, *SOFTMAX, TEXTS[0], stdout=stream) == 0
    assert stream.getvalue() == text + "\n"
    assert call("--model_name_or_path", model, *SOFTMAX, "--exits", TEXTS[0], stdout=colours) == 0
    shown = sum(bool(piece) for piece in generate.pieces(AutoTokenizer.from_pretrained(model), tokens))
    assert colours.getvalue().count("\x1b[0m") == shown


def test_without_a_terminal_layers_are_numbers(model, capsys):
    assert call("--model_name_or_path", model, "--static_exit_layer", "2", "--exits", TEXTS[0]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out
    text = expected(model, TEXTS[0], exit_policy=ExitPolicy(static_layer=2))[2]
    assert out.replace("[2]", "") == text + "\n"
    assert "exit layer" in err


@pytest.fixture
def certified(model, tmp_path):
    """A checkpoint with a certified setting: softmax exits, at most 8 tokens."""
    folder = tmp_path / "certified"
    shutil.copytree(model, folder)
    loaded = load_model(str(folder))
    setting = DecodingSetting(ExitPolicy(measure="softmax", threshold=0.02))
    values = Certified(setting, fingerprint(loaded), 8, greedy_generation(loaded, 8)).to_dict()
    write_json(folder / "config.json", read_json(folder / "config.json") | {"exit_calibration": values})
    return folder


def test_a_certified_setting_is_the_default(certified, capsys):
    assert call("--model_name_or_path", certified, "--json", TEXTS[0]) == 0
    out, err = capsys.readouterr()
    policy = ExitPolicy(measure="softmax", threshold=0.02)
    tokens, layers, _ = expected(certified, TEXTS[0], exit_policy=policy, max_length=8)
    assert (json.loads(out)["tokens"], json.loads(out)["exit_layers"]) == (tokens, layers)
    assert "warning" not in err
    assert call("--model_name_or_path", certified, "--max_new_tokens", "3", TEXTS[0]) == 0
    assert "generate.py: warning: the calibrated guarantee does not hold here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--verify", "exact", "x"), "--verify needs"),
        (("--max_draft", "3", "x"), "--max_draft needs --verify"),
        (("--exit_conf_type", "softmax", "x"), "needs --exit_conf_threshold"),
        (("--exit_conf_threshold", "1.5", "x"), "1.5 is outside [0, 1]"),
        (("--exit_conf_threshold", "0.5", "--static_exit_layer", "9", "x"), "outside 1 to 3"),
        (("--exit_conf_threshold", "0.5", "--exit_conf_type", "MLP", "x"), "no exit head 'MLP'"),
        (("--static_exit_layer", "9", "x"), "outside 1 to 3"),
        (("--engine_precision", "int3", "x"), "int3"),
        (("--max_new_tokens", "0", "x"), "--max_new_tokens 0"),
        (("--file", "nowhere.txt"), "nowhere.txt"),
        (("--file", "nowhere.txt", "x"), "choose one"),
        (("--exits", "--json", "x"), "exclude each other"),
        (("--no_such_flag", "x"), "--no_such_flag"),
        (("--calibration", "nowhere", "x"), "nowhere"),
    ],
)
def test_bad_input_is_one_line(model, flags, reason, capsys):
    assert call("--model_name_or_path", model, *flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert reason in err


def test_the_model_is_required(capsys):
    assert call("x") == 2
    assert "--model_name_or_path" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["file", "standard input"])
def test_a_text_is_a_line_whatever_characters_it_holds(source, tmp_path, monkeypatch):
    """A byte order mark and the ends of lines, Windows' too, are no part of it."""
    texts = ["one\u2028and\u2029more", "two\x85\x0b\x0c", "", "three\x1c\x1d\x1e"]
    content = ("\ufeff" + "\r\n".join(texts) + "\n").encode()
    (tmp_path / "prompts.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    file = str(tmp_path / "prompts.txt") if source == "file" else None
    assert list(read_texts(None, GenerateArguments("a_model", file=file))) == texts
