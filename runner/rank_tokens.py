r"""Ranks a checkpoint's vocabulary by frequency in the summaries of training data, for `--shortlist`.

    python -m runner.rank_tokens --model_name_or_path save/model --train_file train.json \
        --output_dir save/ranked

--task translation and question_answering read their data, with the flags of their entry points. Training
here does that by itself; this is for checkpoints from elsewhere. The ranking is a tensor beside the T5
tensors: the checkpoint stays a T5 checkpoint.
"""

import sys
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from transformers import HfArgumentParser

from runner.job_of_flags import data_source, model_source
from runner.model import load_model_and_tokenizer
from util.arguments import DataArguments, ModelArguments
from util.data import load_split
from util.errors import UsageError
from util.files import whole_folder_contents
from util.flag import argument
from util.run_folder import check_free, check_writable
from util.task_arguments import AnswerArguments, TranslationArguments
from util.tokens import tokenize

DATA = {
    "summarization": DataArguments,
    "translation": TranslationArguments,
    "question_answering": AnswerArguments,
}


@dataclass
class RankingArguments:
    output_dir: str = argument(..., "Folder for the checkpoint with the ranking.")
    overwrite_output_dir: bool = argument(False, "Use a folder that is not empty.")


def main() -> int:
    """Runs the command line. Returns the exit code: 0, or 2 after one line about bad input."""
    task = ArgumentParser(add_help=False, allow_abbrev=False)
    task.add_argument("--task", choices=DATA, default="summarization")
    known, flags = task.parse_known_args()
    parser = HfArgumentParser((ModelArguments, DATA[known.task], RankingArguments))
    try:
        rank(*parser.parse_args_into_dataclasses(flags))
    except UsageError as error:
        print(f"rank_tokens: error: {error}", file=sys.stderr)
        return 2
    return 0


def rank(model_args: ModelArguments, data_args: DataArguments, ranking: RankingArguments) -> None:
    """Loads, counts, and saves model and tokenizer."""
    data_args.check()
    folder = Path(ranking.output_dir)
    check_writable(folder, "--output_dir")
    check_free(folder, ranking.overwrite_output_dir)
    if model_args.model_name_or_path is None or model_args.model_shape is not None:
        raise UsageError("give the checkpoint as --model_name_or_path, without --model_shape")
    model, tokenizer = load_model_and_tokenizer(model_source(model_args), {})
    texts = load_split("train", data_source(data_args, model_args), data_args.max_train_samples)
    labels = tokenize(texts, tokenizer, data_args.tokenization, data_args.max_target_length)["labels"]
    try:
        model.rank_tokens(labels)
    except ValueError as error:
        raise UsageError(f"the tokenizer is not the model's: {error}") from error
    with whole_folder_contents(folder) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
    used = len({token for text in labels for token in text})
    print(f"{folder}: {used} of {len(model.token_ranking)} tokens occur in {len(labels)} texts")


if __name__ == "__main__":
    sys.exit(main())
