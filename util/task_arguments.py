"""Flags of the data of tasks other than summarization."""

from dataclasses import dataclass

from util.arguments import DataArguments
from util.errors import UsageError
from util.flag import argument
from util.tasks import Task, question_answering, translation


@dataclass
class TranslationArguments(DataArguments):
    """Which pairs of texts: rows `{"translation": {"de": …, "en": …}}`, or a column a language."""

    source_lang: str | None = argument(None, "Language to translate from, as the data names it: de.")
    target_lang: str | None = argument(None, "Language to translate into, as the data names it: en.")

    def check(self) -> None:
        missing = [name for name in ("source_lang", "target_lang") if not getattr(self, name)]
        if missing:
            raise UsageError(f"--{missing[0]} is missing: a language as the data names it, such as de")
        if self.source_lang == self.target_lang:
            raise UsageError(f"--source_lang and --target_lang are both {self.source_lang!r}")

    @property
    def task(self) -> Task:
        return translation(self.target_lang)

    @property
    def columns(self) -> dict[str, str | None]:
        """Flag → column that it names; languages are columns, unless their columns have other names."""
        named = super().columns
        languages = {"--source_lang": self.source_lang, "--target_lang": self.target_lang}
        return {
            flag if column is None else other: language if column is None else column
            for (flag, language), (other, column) in zip(languages.items(), named.items(), strict=True)
        }


@dataclass
class AnswerArguments(DataArguments):
    """Which questions, in SQuAD's form: what is asked, the text that knows it, and the right answers."""

    question_column: str | None = argument(
        None, "Column of the questions; found without this flag in SQuAD's form."
    )
    context_column: str | None = argument(
        None, "Column of the texts that the questions are about; found without this flag in SQuAD's form."
    )
    answer_column: str | None = argument(
        None, "Column of the answers: SQuAD's {text, answer_start}, a list of texts, or one text."
    )
    version_2_with_negative: bool = argument(
        False, "Questions may have no answer; the right text is then an empty one (SQuAD 2.0)."
    )

    def check(self) -> None:
        for flag in ("text_column", "summary_column"):
            if getattr(self, flag) is not None:
                raise UsageError(f"--{flag} has no effect here: give {', '.join(self.columns)}")

    @property
    def task(self) -> Task:
        return question_answering(self.version_2_with_negative)

    @property
    def columns(self) -> dict[str, str | None]:
        """Flag → column that it names."""
        names = ("question_column", "context_column", "answer_column")
        return {f"--{name}": getattr(self, name) for name in names}
