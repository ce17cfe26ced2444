"""Try a checkpoint: text in, text out.

    python generate.py --model_name_or_path save/demo/model "Flames tore through a bakery in Ashford. …"
    python generate.py --model_name_or_path save/demo/model --file prompts.txt --json > texts.jsonl
    echo "Flames tore through a bakery." | python generate.py --model_name_or_path save/demo/model --exits

Texts come from the argument, from --file, or from standard input, one a line. The checkpoint decodes with the
setting that a calibration has certified, if it has one, else at full depth; flags choose another. Without
flags of their own, prefix and lengths are those of the calibration or the training. Speed goes to standard
error.
"""

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoTokenizer, TextStreamer
from transformers.utils import logging

from early_exit import ExitPolicy
from early_exit.models.loading import load_model
from util.command_line import BAD_VALUES, OneLineParser
from util.errors import UsageError
from util.exit_colours import coloured, legend, numbered, wants_colour
from util.generate_arguments import GenerateArguments, PromptSettings, prompt_settings, read_texts
from util.pieces import pieces


def main() -> int:
    """Runs the command line. Returns the exit code: 0, or 2 after one line about bad input."""
    name = Path(sys.argv[0]).name
    warnings.showwarning = lambda message, *_, **__: print(f"{name}: warning: {message}", file=sys.stderr)
    try:
        run(*parse(sys.argv[1:]))
    except UsageError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads the texts has seen enough
        sys.stderr.close()
    return 0


def parse(argv: list[str]) -> tuple[GenerateArguments, argparse.Namespace]:
    """The flags; and beside them `text`, `exits` and `json`. Raises UsageError for bad ones."""
    parser = OneLineParser(
        GenerateArguments, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", nargs="?", help="The text; without it and --file, standard input.")
    parser.add_argument("--exits", action="store_true", help="Show the exit layer of every token.")
    parser.add_argument("--json", action="store_true", help="A JSON object a line instead of the text.")
    try:
        options, shown = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    except BAD_VALUES as error:
        raise UsageError(" ".join(str(error).split())) from error
    if shown.text is not None and options.file is not None:
        raise UsageError("a text and --file are both given: choose one")
    if shown.exits and shown.json:
        raise UsageError("--exits and --json exclude each other: the JSON holds the exit layers")
    return options, shown


def run(options: GenerateArguments, shown: argparse.Namespace) -> None:
    """Loads, checks, and decodes text by text. Raises UsageError for bad input."""
    texts = read_texts(shown.text, options)
    logging.disable_progress_bar()
    try:
        model = load_model(options.model_name_or_path, calibration=options.calibration).eval()
        tokenizer = AutoTokenizer.from_pretrained(options.model_name_or_path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise UsageError(f"cannot load {options.model_name_or_path!r}: {reason}") from error
    settings = prompt_settings(options, model)
    policy = options.policy(model)
    writer = Writer(model, tokenizer, settings, policy, options.engine_precision)
    colours = wants_colour(sys.stdout)
    streams = sys.stdout.isatty() and options.file is None and not (shown.exits or shown.json)
    if shown.exits:
        print(legend(model.num_exits, colours), file=sys.stderr)
    for text in _progress(texts, options):
        result = writer.write(text, streams)
        if streams:  # it stands there already
            continue
        line = _line(result, shown, model.num_exits, colours)
        tqdm.write(line) if options.file is not None else print(line, flush=True)
    print(writer.speed(), file=sys.stderr)


class Writer:
    """Writes a text for each prompt, one at a time, through `model.generate`."""

    def __init__(
        self,
        model,
        tokenizer,
        settings: PromptSettings,
        policy: ExitPolicy | None,
        precision: str | None,
    ):
        """policy: None for what the checkpoint has certified."""
        self._model, self._tokenizer, self._settings = model, tokenizer, settings
        self._options = {"return_dict_in_generate": True, **settings.length, "engine_precision": precision}
        if policy is not None:
            self._options["exit_policy"] = policy
        self._seconds, self._lengths, self._layers = [], [], []

    def write(self, text: str, streams: bool = False) -> dict:
        """The text for a prompt, with tokens, exit layers, confidences (None where none was asked), and
        milliseconds. streams: prints it to standard output, token by token. Raises UsageError where the
        model cannot decode as asked."""
        inputs = self._tokenizer(
            self._settings.prefix + text,
            return_tensors="pt",
            truncation=True,
            max_length=self._settings.source_length,
        )
        streamer = TextStreamer(self._tokenizer, skip_special_tokens=True) if streams else None
        started = time.perf_counter()
        try:
            output = self._model.generate(
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                **self._options,
                **({} if streamer is None else {"streamer": streamer}),
            )
        except ValueError as error:
            raise UsageError(" ".join(str(error).split())) from error
        seconds = time.perf_counter() - started
        tokens = output.sequences[0, 1:].tolist()  # without the start token
        layers = output.exit_layers[0].tolist()
        self._seconds.append(seconds)
        self._lengths.append(len(tokens))
        drafting = None if output.drafting is None else output.drafting[0]
        self._layers.append(sum(layers) if drafting is None else drafting.layers)
        parts = pieces(self._tokenizer, tokens)
        return {
            "text": "".join(parts),
            "tokens": tokens,
            "pieces": parts,
            "exit_layers": layers,
            "confidences": [None if math.isnan(each) else each for each in output.confidences[0].tolist()],
            "layers_run": self._layers[-1],
            "milliseconds": 1000 * seconds,
        }

    def speed(self) -> str:
        """A line about all texts; of several, the first one's time is left out: it prepares the weights."""
        texts, tokens = len(self._lengths), sum(self._lengths)
        if not tokens:
            return "0 texts"
        first = 1 if texts > 1 and sum(self._lengths[1:]) else 0
        rate = sum(self._lengths[first:]) / sum(self._seconds[first:])
        note = ", the first text left out" if first else ""
        layers = sum(self._layers) / tokens
        return (
            f"{texts} text{'s' if texts > 1 else ''}, {tokens} tokens, {layers:.2f} of "
            f"{self._model.num_exits} decoder layers a token, {rate:.1f} tokens/s "
            f"(encoder included{note}; {torch.get_num_threads()} threads)"
        )


def _progress(texts: Iterator[str], options: GenerateArguments) -> Iterator[str]:
    """With a bar on standard error where the texts come from a file."""
    if options.file is None:
        return texts
    known = list(texts)
    return tqdm(known, unit="text", disable=not sys.stderr.isatty())


def _line(result: dict, shown: argparse.Namespace, layers: int, colours: bool) -> str:
    if shown.json:
        return json.dumps(result, ensure_ascii=False)
    if not shown.exits:
        return " ".join(result["text"].split())
    pairs = zip(result["pieces"], result["exit_layers"], strict=True)
    if colours:
        return "".join(coloured(text, layer, layers) for text, layer in pairs if text)
    return "".join(numbered(text, layer) for text, layer in pairs if text)


if __name__ == "__main__":
    sys.exit(main())
