r"""Ranks a checkpoint's vocabulary by frequency in the summaries of training data, for `--shortlist`.

    python -m runner.rank_tokens --model_name_or_path google/flan-t5-small --train_file train.json \
        --output_dir save/ranked

--task translation and question_answering read their data, with the flags of their entry points. Training
here does that by itself; this is for checkpoints from elsewhere. The ranking is a tensor beside the T5
tensors: the checkpoint stays a T5 checkpoint. What training left beside it (its settings, and hashes of the
documents that it has seen) is taken over.
"""

import sys
from argparse import ArgumentParser
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset
from transformers import HfArgumentParser

from runner.job_of_flags import data_source, model_source
from runner.model import load_model_and_tokenizer
from util.arguments import DataArguments, ModelArguments
from util.calibration_data import save_training_documents
from util.check_arguments import check_data_sources, check_numbers
from util.data import load_split
from util.errors import UsageError
from util.files import read_json, whole_folder_contents, write_json
from util.flag import argument
from util.run_folder import RUN_FILE, check_free, check_writable
from util.task_arguments import AnswerArguments, TranslationArguments
from util.tokens import tokenize

DATA = {
    "summarization": DataArguments,
    "translation": TranslationArguments,
    "question_answering": AnswerArguments,
}


@dataclass
class RankingArguments:
    output_dir: str = field(metadata={"help": "Folder for the checkpoint with the ranking."})
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
    """Loads, counts, and saves model and tokenizer, with what training left beside them. Raises UsageError
    for bad input, before anything is written."""
    data_args.check()
    check_data_sources(data_args, trains=True)
    check_numbers(model_args, data_args)
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
        _keep_training(model_args.model_name_or_path, texts, scratch)
    used = len({token for text in labels for token in text})
    print(f"{folder}: {used} of {len(model.token_ranking)} tokens occur in {len(labels)} texts")


def _keep_training(checkpoint: str, texts: Dataset, folder: Path) -> None:
    """Takes over how the checkpoint was trained, which generate.py reads, and which documents it has seen,
    which calibration refuses. Those counted here join them: shortlists depend on their summaries."""
    run = read_json(Path(checkpoint) / RUN_FILE)
    if run is not None:
        write_json(folder / RUN_FILE, {**run, "finished": True})  # here is nothing to go on from
    save_training_documents(texts, checkpoint, folder)


if __name__ == "__main__":
    sys.exit(main())
