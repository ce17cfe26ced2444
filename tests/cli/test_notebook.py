"""The notebook runs top to bottom on results of calibrations, small ones made here."""

import json
import os
import subprocess
import sys

from tests.cli.conftest import ROOT, call
from tests.cli.test_calibration import cali_flags


def test_the_notebook_draws_its_figures(model, tmp_path):
    results = tmp_path / "results"
    for consistency in ("textual", "risk"):
        for prompts in ("8", "16"):
            folder = results / f"softmax-{consistency}-{prompts}"
            more = ["--consistency_type", consistency, "--max_calibrate_samples", prompts]
            more += ["--calibrate_delta", "0.4", "0.8", "0.01"]
            assert call(*cali_flags(model, folder, *more)) == 0
    command = [
        sys.executable,
        "-m",
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "--output-dir",
        str(tmp_path),
    ]
    private = {name: str(tmp_path / name) for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    environment = {**os.environ, **private, "CALIBRATION_RESULTS": str(results)}
    subprocess.run([*command, "plot_gen_calibration.ipynb"], cwd=ROOT, env=environment, check=True)
    notebook = json.loads((tmp_path / "plot_gen_calibration.ipynb").read_text())
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3 + 3 + 4
    table = next(
        output["data"]["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {})
    )
    assert "naive, 95% of full quality" in "".join(table)
    assert "calibrated, δ = 0.8" in "".join(table)
    assert not [output for output in outputs if output["output_type"] == "error"]
