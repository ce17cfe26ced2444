r"""Ranks a checkpoint's vocabulary by frequency in the summaries of training data, for `--shortlist`.

    python -m util.rank_tokens --model_name_or_path save/model --train_file train.json \
        --output_dir save/ranked

Training here does that by itself; this is for checkpoints from elsewhere. The ranking is a tensor beside the
T5 tensors: the checkpoint stays a T5 checkpoint.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, HfArgumentParser

from early_exit.models.loading import load_model
from util.arguments import DataArguments, ModelArguments, argument
from util.data import load_split
from util.errors import UsageError
from util.files import whole_folder_contents
from util.run_folder import check_free, check_writable


@dataclass
class RankingArguments:
    output_dir: str = argument(..., "Folder for the checkpoint with the ranking.")
    overwrite_output_dir: bool = argument(False, "Use a folder that is not empty.")


def main() -> int:
    """Runs the command line. Returns the exit code: 0, or 2 after one line about bad input."""
    parser = HfArgumentParser((ModelArguments, DataArguments, RankingArguments))
    try:
        rank(*parser.parse_args_into_dataclasses())
    except UsageError as error:
        print(f"rank_tokens: error: {error}", file=sys.stderr)
        return 2
    return 0


def rank(model_args: ModelArguments, data_args: DataArguments, ranking: RankingArguments) -> None:
    """Loads, counts, and saves model and tokenizer."""
    folder = Path(ranking.output_dir)
    check_writable(folder, "--output_dir")
    check_free(folder, ranking.overwrite_output_dir)
    name = model_args.model_name_or_path
    if name is None:
        raise UsageError("give the checkpoint as --model_name_or_path")
    try:
        model, tokenizer = load_model(name), AutoTokenizer.from_pretrained(model_args.tokenizer_name or name)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot load {name!r}: {' '.join(str(error).split())}") from error
    texts = load_split("train", data_args, model_args, data_args.max_train_samples, needs_summaries=True)
    limit = {"truncation": True, "max_length": data_args.max_target_length}
    labels = tokenizer(text_target=list(texts["summary"]), **limit)["input_ids"]
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
