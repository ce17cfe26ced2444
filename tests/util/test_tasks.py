"""What tasks other than summarization read: rows of their own forms, and the embedded corpus."""

import json

import pytest
from datasets import Dataset

from util import data as data_module
from util.corpus import generate
from util.corpus.tasks import questions, translations
from util.data import load_split
from util.errors import UsageError
from util.task_arguments import AnswerArguments, TranslationArguments

PAIR = {"de": "Ein Mädchen läuft.", "en": "A girl runs."}
ROW = {
    "id": "1",
    "title": "T",
    "context": "The defense gave up 308 points.",
    "question": "How many?",
    "answers": {"text": ["308", "308 points"], "answer_start": [20, 20]},
}
DE_EN = {"source_lang": "de", "target_lang": "en"}


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def hub(monkeypatch, rows):
    monkeypatch.setattr(data_module, "load_dataset", lambda *_, **__: Dataset.from_list(rows))
    return {"dataset_name": "some/where", "overwrite_cache": True}


@pytest.fixture(params=["file", "hub"])
def source(request, tmp_path, monkeypatch):
    """Rows → the flags that read them, from a file or as if from a hub."""
    if request.param == "hub":
        return lambda rows: hub(monkeypatch, rows)
    return lambda rows: {"train_file": written(tmp_path / "rows.json", rows)}


def read(data, **how):
    return load_split("train", data.source(), None, **how).to_list()


@pytest.mark.parametrize("row", [{"translation": PAIR}, {"id": "1", "translation": PAIR}, PAIR])
def test_translations_are_pairs_in_a_column_or_two_columns(source, row):
    flags = source([row])
    assert read(TranslationArguments(**flags, **DE_EN)) == [{"document": PAIR["de"], "summary": PAIR["en"]}]
    back = TranslationArguments(**flags, source_lang="en", target_lang="de")
    assert read(back) == [{"document": PAIR["en"], "summary": PAIR["de"]}]


def test_an_unknown_language_is_named_with_what_is_there(source):
    data = TranslationArguments(**source([{"translation": PAIR}]), source_lang="fr", target_lang="en")
    with pytest.raises(UsageError, match=r"no column 'fr' \(--source_lang\); there are: (id, )?de, en"):
        read(data)


def test_a_row_that_is_no_pair_is_named(tmp_path):
    file = written(tmp_path / "rows.json", [{"translation": PAIR}, {"translation": "Ein Mädchen"}])
    with pytest.raises(UsageError, match="column 'translation', row 2 holds no dictionary of texts"):
        read(TranslationArguments(train_file=file, **DE_EN))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"target_lang": "en"}, "--source_lang is missing"),
        ({"source_lang": "de"}, "--target_lang is missing"),
        ({"source_lang": "de", "target_lang": "de"}, "are both 'de'"),
    ],
)
def test_both_languages_are_needed(flags, message):
    with pytest.raises(UsageError, match=message):
        TranslationArguments(**flags).check()


def test_a_question_with_its_context_and_all_answers(source):
    assert read(AnswerArguments(**source([ROW]))) == [
        {
            "document": "question: How many? context: The defense gave up 308 points.",
            "summary": "308",
            "references": ["308", "308 points"],
        }
    ]


def test_a_question_without_an_answer_needs_a_flag(source):
    flags = source([ROW, {**ROW, "answers": {"text": [], "answer_start": []}}])
    with pytest.raises(
        UsageError, match="column 'answers', row 2 holds no answer, which --version_2_with_neg"
    ):
        read(AnswerArguments(**flags))
    examples = read(AnswerArguments(**flags, version_2_with_negative=True))
    assert [row["references"] for row in examples] == [["308", "308 points"], [""]]
    assert examples[1]["summary"] == ""


def test_wrong_columns_are_named(tmp_path):
    file = written(tmp_path / "rows.json", [{"question": "?", "passage": "x", "answers": "y"}])
    with pytest.raises(UsageError, match="give --question_column; there are: question, passage, answers"):
        read(AnswerArguments(train_file=file))
    named = {"question_column": "question", "context_column": "passage", "answer_column": "answers"}
    assert read(AnswerArguments(train_file=file, **named))[0]["document"] == "question: ? context: x"
    with pytest.raises(UsageError, match="--text_column has no effect here: give --question_column"):
        AnswerArguments(train_file=file, text_column="x").check()


@pytest.mark.slow
def test_the_embedded_questions_have_their_answer_in_the_report():
    reports = [row["document"] for row in generate("validation")]
    for row, report in zip(questions("validation"), reports, strict=True):
        (answer,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert row["context"] == report
        assert report[start : start + len(answer)] == answer
    assert read(AnswerArguments(dataset_name="embedded"))[0]["references"] == [
        questions("train", 1)[0]["answers"]["text"][0]
    ]


def test_the_embedded_translations_can_be_undone():
    summaries = [row["summary"] for row in generate("test", 40)]
    back = str.maketrans("eioua", "aeiou")
    for row, summary in zip(translations("test", 40), summaries, strict=True):
        assert row["translation"]["en"] == summary
        words = reversed(row["translation"]["toy"].split())
        undone = "".join(word.translate(back) if word.islower() else word for word in words)
        assert undone == "".join(summary.split())
