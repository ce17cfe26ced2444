"""ONNX Runtime with a model's weights, in a Python of its own.

Its exporter (optimum) needs an older transformers than this project, so that it is installed elsewhere:

    python -m venv onnx && onnx/bin/pip install -r benchmarks/onnx_requirements.txt
    ONNX_PYTHON=onnx/bin/python python -m benchmarks.decode_speed …
"""

import atexit
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

PYTHON = "ONNX_PYTHON"


def missing() -> list[dict[str, str]]:
    """Where no Python for it is named, that it is left out: `system` and `reason`."""
    if os.environ.get(PYTHON):
        return []
    return [{"system": "onnxruntime", "reason": f"{PYTHON} names no Python that has it"}]


def decoder(
    model, precision: str, source: Tensor, new_tokens: int, threads: int
) -> Callable[[], dict[str, Any]]:
    """A call that decodes `source` [batch, length] greedily."""
    write, rows = writer(model, precision, threads), source.tolist()
    return lambda: {"tokens": write(rows, new_tokens)}


def writer(model, precision: str, threads: int) -> Callable[[list[list[int]], int], list[list[int]]]:
    """Writes greedy texts of up to so many tokens for sources [rows][length], filled up with 0. Handing
    tokens to the other process and back takes less than a thousandth of that."""
    process, said = _process(model, precision, threads)

    def write(source: list[list[int]], new_tokens: int) -> list[list[int]]:
        process.stdin.write(json.dumps({"source": source, "new_tokens": new_tokens}) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            last = (said.read_text(encoding="utf-8").splitlines() or ["it said nothing"])[-1]
            raise RuntimeError(f"ONNX Runtime's process ended with {process.wait()}: {last}")
        return json.loads(answer)["tokens"]

    return write


@cache
def _process(model, precision: str, threads: int) -> tuple[subprocess.Popen, Path]:
    """The process, and the file of what it and its exporter say beside answers."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    model.save_pretrained(folder.name)
    worker = Path(__file__).with_name("onnx_worker.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [os.environ[PYTHON], str(worker), folder.name, precision, str(threads)]
    said = Path(folder.name) / "said.txt"
    with said.open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
    atexit.register(process.kill)
    return process, said
