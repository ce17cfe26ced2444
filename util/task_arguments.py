"""Flags of the data of tasks other than summarization."""

from dataclasses import dataclass
from typing import ClassVar

from util.arguments import DataArguments
from util.flag import argument
from util.tasks import TRANSLATION, Task


@dataclass
class TranslationArguments(DataArguments):
    """Which pairs of texts: rows `{"translation": {"de": …, "en": …}}`, or a column a language."""

    task: ClassVar[Task] = TRANSLATION

    source_lang: str | None = argument(None, "Language to translate from, as the data names it: de.")
    target_lang: str | None = argument(None, "Language to translate into, likewise.")

    @property
    def columns(self) -> dict[str, str | None]:
        """Flag → column that it names; languages are columns, unless their columns have other names."""
        named = super().columns
        languages = {"--source_lang": self.source_lang, "--target_lang": self.target_lang}
        return {
            flag if column is None else other: language if column is None else column
            for (flag, language), (other, column) in zip(languages.items(), named.items(), strict=True)
        }
