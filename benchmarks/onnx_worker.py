"""The other end of `onnx_peer.py`: `onnx_worker.py CHECKPOINT PRECISION THREADS`, run by another Python.

Exports the checkpoint, then answers JSON lines: `{"source": [[…]], "new_tokens": n}` → `{"tokens": [[…]]}`.
Sources are filled up with 0.
"""

import json
import os
import sys
from pathlib import Path

import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from optimum.onnxruntime import ORTModelForSeq2SeqLM


def load(folder: Path, precision: str, threads: int) -> ORTModelForSeq2SeqLM:
    """float32, or int8: weights with a scale for every output, inputs rounded as they come."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = ORTModelForSeq2SeqLM.from_pretrained(
        folder, export=True, use_merged=False, session_options=options
    )
    if precision == "float32":
        return model
    exported = folder / "onnx"
    model.save_pretrained(exported)
    for path in exported.glob("*.onnx"):
        quantize_dynamic(path, path, per_channel=True, weight_type=QuantType.QInt8)
    return ORTModelForSeq2SeqLM.from_pretrained(exported, use_merged=False, session_options=options)


def main() -> None:
    """Answers until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the exporter prints is no answer
    folder, precision, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = load(Path(folder), precision, int(threads))
    for line in sys.stdin:
        request = json.loads(line)
        source = torch.tensor(request["source"])
        output = model.generate(
            input_ids=source,
            attention_mask=(source != 0).long(),
            max_new_tokens=request["new_tokens"],
            do_sample=False,
            num_beams=1,
        )
        print(json.dumps({"tokens": output[:, 1:].tolist()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
