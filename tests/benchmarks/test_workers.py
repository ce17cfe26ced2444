"""The processes that speed is measured in. They import this file: it imports little."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from benchmarks.workers import Workers


@dataclass(frozen=True)
class Question:
    what: str
    process: str = "torch"
    settings: tuple[tuple[str, str], ...] = (("ASKED_FOR", "yes"),)


def answers(question: Question, setting: tuple, threads: int) -> Callable:
    def call():
        if question.what == "die":
            os._exit(3)
        if question.what == "fail":
            raise KeyError("a reason")
        return os.environ["ASKED_FOR"], setting, threads

    return call


def test_a_process_answers_fails_and_dies():
    with Workers(answers, 1) as workers:
        assert workers.timed(Question("answer"), 5)[1] == ("yes", (5,), 1)
        with pytest.raises(RuntimeError, match="KeyError: 'a reason'"):
            workers.timed(Question("fail"), 5)
        with pytest.raises(RuntimeError, match="ended"):
            workers.timed(Question("die"), 5)
        assert workers.timed(Question("answer"), 6)[1][1] == (6,)  # in another process
