"""Evaluation and prediction with exits, and their result files."""

from collections.abc import Callable
from pathlib import Path

from datasets import Dataset
from transformers import EvalPrediction

from early_exit import DecodingSetting
from runner.values import Evaluation, Run
from trainers.generation import GenerationTrainer
from util.files import write_text
from util.metrics import scores_of_tokens
from util.results import SweepTable, heads_table, write_results
from util.run_folder import finish_sweep
from util.run_texts import RunTexts
from util.tokens import tokenize


def scores_against(examples: Dataset, run: Run) -> Callable[[EvalPrediction], dict[str, float]] | None:
    """For a trainer: the task's scores of what it generates for all of the examples, against whole summaries
    as they stand in the data, whatever the labels were cut to. None where there are no summaries."""
    if "summary" not in examples.column_names:
        return None
    several = "references" in examples.column_names
    references = examples["references"] if several else [[text] for text in examples["summary"]]
    scores = scores_of_tokens(references, run.tokenizer, run.job.data.task.scores)
    return lambda rows: scores(rows.predictions)


def sweep(trainer: GenerationTrainer, policies: list, evaluation: Evaluation, table: SweepTable) -> None:
    """Evaluates the policies that the table lacks, and with `retimes` those anew whose times were disturbed;
    the table is rewritten after each."""
    texts = RunTexts(trainer, trainer.eval_dataset)
    for policy in [policy for policy in policies if policy not in table]:
        trainer.generation = evaluation.settings(policy)
        table.add(policy, trainer.evaluate())
        texts.add(DecodingSetting(policy, trainer.generation.precision or "float32"), trainer.decoded)
    for policy in table.disturbed() if evaluation.retimes else []:
        trainer.generation = evaluation.settings(policy)
        table.retime(policy, trainer.evaluate())
    if trainer.is_world_process_zero():
        from util.report import write_report  # here, for matplotlib: a run that draws nothing starts earlier

        texts.finish()
        finish_sweep(Path(trainer.args.output_dir))
        write_report(Path(trainer.args.output_dir))
        print(table)


def predict(trainer: GenerationTrainer, run: Run, source: dict) -> None:
    """Generates for the test examples and writes generated_predictions.txt, one text a line."""
    examples, tokenizer, how = run.texts["test"], run.tokenizer, run.job.tokenization
    trainer.compute_metrics = scores_against(examples, run)
    tokens = tokenize(examples, tokenizer, how, how.generation_length)
    output = trainer.predict(tokens, metric_key_prefix="predict")
    report(trainer, "predict", output.metrics, len(tokens), source)
    if trainer.is_world_process_zero() and trainer.args.predict_with_generate:
        texts = tokenizer.batch_decode(output.predictions, skip_special_tokens=True)
        lines = [" ".join(text.split()) for text in texts]
        write_text(run.job.output.folder / "generated_predictions.txt", "\n".join(lines) + "\n")


def report(trainer: GenerationTrainer, split: str, metrics: dict, samples: int, source: dict) -> None:
    """Prints the metrics of a split and writes its result files."""
    metrics[f"{split}_samples"] = samples
    if trainer.is_world_process_zero():
        print(f"***** {split} *****")
        for name, value in sorted(metrics.items()):
            if name.endswith("_heads"):
                print(heads_table(value))
                continue
            print(f"  {name:<28} = {value:.4f}" if isinstance(value, float) else f"  {name:<28} = {value}")
        write_results(Path(trainer.args.output_dir), split, metrics, source)
