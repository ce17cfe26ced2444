"""One HTML page about a run: settings, tables, figures, and texts with the exit layer of every token.

    python -m util.report save/demo/sweep

Sweeps and calibrations write `report.html` into their output folder at their end. The page stands alone: no
network, no script. It shows what the result files hold and computes nothing but the distance of two texts.
"""

from pathlib import Path

from util.files import write_text
from util.report.page import page
from util.report.sections import run_sections
from util.run_folder import REPORT_FILE


def write_report(folder: Path) -> Path:
    """Writes the page about a run's folder, and about the runs one folder below it, into that folder.

    Returns where it is. Raises UsageError for a folder without results.
    """
    file = folder / REPORT_FILE
    write_text(file, page(folder.resolve().name, run_sections(folder)))
    return file
