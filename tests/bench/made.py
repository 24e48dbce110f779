"""Rows as runs leave them, and a small dataset of which every case has a label."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from foveate.bench.rows import CASES
from toys import scan

PATTERN = (-0.02, -0.01, 0.01, 0.02)


def row(method: str = "supervised", labels: str = "8", seed: int = 0, dice: float = 0.8, **more: Any) -> dict[str, Any]:
    """Four cases around a mean Dice, the same pattern for every method, in the types that a CSV gives back."""
    return {
        "dataset": "toy",
        "scored": "test",
        "without": "",
        "method": method,
        "labels": labels,
        "seed": str(seed),
        "minutes": "15",
        "threads": "2",
        "device": "cpu",
        "clock": "wall",
        "train_cases": "160",
        "steps": "1000",
        "dice": str(dice),
        "dice_front": str(dice),
        "dice_back": str(dice),
        "hd95_mm": "1.5",
        "nsd": "0.9",
        "seconds": "900",
        "cpu_seconds": "1800",
        "peak_rss_mb": "700",
        "commit": "abc",
        "machine": "a processor",
        "date": "2026-01-01",
        "plan": "a plan",
        CASES: {f"c{i}": {"patient": f"c{i}", "dice": [dice + shift] * 2} for i, shift in enumerate(PATTERN)},
        **more,
    }


def dataset(root: Path, cases: int = 8) -> Path:
    """Balls of two classes, c0, c1, ..., all with a label, and no dataset.json."""
    random = np.random.default_rng(0)
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number in range(cases):
        for part, array in zip(("images", "labels"), scan((16, 16, 16), random), strict=True):
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / part / f"c{number}.nii.gz")
    return root


def ids(path: Path, *names: str) -> Path:
    path.write_text("\n".join(names) + "\n", encoding="utf-8")
    return path
