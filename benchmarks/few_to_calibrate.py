"""How few held-back cases calibrate a classifier that few labels taught.

    python benchmarks/few_to_calibrate.py [--scored validation] [--cases 5 7 9 15 30] [--write]

From the stored answers of the runs with at most 100 labels, none of which had a temperature: so many scored cases are
drawn, again and again, to fit one, and the calibration error of the others is the mean over draws.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys

import numpy as np
import torch

from common import data_folder, markdown_table, write_section
from few_labels import RESULTS
from foveate.bench.rows import ALL, CASES, read_rows
from foveate.cohort.layouts import find_cohort
from foveate.metrics.classification import calibration_error, confidence
from foveate.tasks.calibration import fit_temperature

DRAWS = 200
MOST = 100  # labels of the runs that count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scored", choices=["test", "validation"], default="validation")
    parser.add_argument("--cases", nargs="+", type=int, default=[5, 7, 9, 15, 30])
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    given = parser.parse_args()
    cohort = find_cohort(data_folder("brain_tumour"))
    classes = list(cohort.classes)
    truth = {case.id: classes.index(case.target[0]) for case in cohort.cases}
    lines = []
    for row in read_rows(RESULTS / "brain_tumour.csv"):
        if row["scored"] == given.scored and row["labels"] != ALL and int(row["labels"]) <= MOST:
            answers = list(csv.DictReader(io.StringIO(row[CASES]["predictions.csv"])))
            probabilities = np.array([[float(answer[name]) for name in classes] for answer in answers])
            targets = np.eye(len(classes))[[truth[answer["case"]] for answer in answers]]
            errors = [mean_error(probabilities, targets, count) for count in given.cases]
            name = f"{row['method']}, {row['labels']} labels, {float(row['minutes']):g} minutes, seed {row['seed']}"
            lines.append([name, f"{_error(probabilities, targets):.3f}", *(f"{error:.3f}" for error in errors)])
    text = markdown_table(["run", "none", *(f"{count} cases" for count in given.cases)], lines)
    text += f"\n\n`{' '.join(['python benchmarks/few_to_calibrate.py', *sys.argv[1:]])}` · {DRAWS} draws"
    if given.write:
        write_section("few-to-calibrate", text)
    print(text)


def mean_error(probabilities: np.ndarray, targets: np.ndarray, count: int) -> float:
    """Of the cases that were not drawn, mean over the draws of ``count`` cases; both ``[N, K]``."""
    logits, source = np.log(probabilities.clip(1e-6)), np.random.default_rng(0)
    errors = []
    for _ in range(DRAWS):
        drawn = np.isin(np.arange(len(logits)), source.choice(len(logits), count, replace=False))
        temperature = fit_temperature(torch.from_numpy(logits[drawn]), torch.from_numpy(targets[drawn])) or 1.0
        others = torch.from_numpy(logits[~drawn] / temperature).softmax(1).numpy()
        errors.append(_error(others, targets[~drawn]))
    return float(np.mean(errors))


def _error(probabilities: np.ndarray, targets: np.ndarray) -> float:
    sure, right = confidence(targets, probabilities)
    return float(calibration_error(sure, right, np.ones((1, len(targets))))[0])


if __name__ == "__main__":
    main()
