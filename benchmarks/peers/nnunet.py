"""nnU-Net v2 as a peer of ``foveate bench label-efficiency``: its own commands, plan, augmentation and schedule.

nnUNetv2_plan_and_preprocess, nnUNetv2_train with fold "all" (every label teaches, nothing is held back), and
nnUNetv2_predict with its mirroring, from the last checkpoint. It learns from the labelled scans alone. Its usual
250,000 steps are for a GPU and a day: the trainer in nnunet_trainer/ ends at the deadline, and says what that changes.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from adapter import Task, environment, link, read_task, run

from foveate.files import write_atomic
from foveate.io import image_suffix

VERSION = "2.8.1"
NUMBER, NAME = "1", "Dataset001_Bench"


def main() -> None:
    task = read_task(__doc__)
    binaries = environment("nnunet", f"nnunetv2=={VERSION}")
    folders = {part: task.out / "nnunet" / part for part in ("raw", "preprocessed", "results")}
    env = {f"nnUNet_{part}": str(folder) for part, folder in folders.items()}
    env |= {"nnUNet_compile": "f", "OMP_NUM_THREADS": str(task.threads)}
    env |= {"PEER_SEED": str(task.seed), "PEER_THREADS": str(task.threads), "PEER_CLOCK": task.clock}
    env |= {"PEER_FACTS": str(task.out / "facts.json")}
    env |= {"nnUNet_extTrainer": str(Path(__file__).resolve().parent / "nnunet_trainer")}
    configuration = "2d" if task.cohort.dims == 2 else "3d_fullres"
    write_raw(task, folders["raw"] / NAME)
    device = ["-device", "cuda" if task.cuda else "cpu"]
    processes = str(task.threads)
    prepare = ["-d", NUMBER, "-c", configuration, "-np", processes, "-npfp", processes]
    run([binaries / "nnUNetv2_plan_and_preprocess", *prepare], env)
    trainer = ["-tr", "nnUNetTrainerMinutes"]
    # Workers beside the training's own threads, or none; the planning takes no 0 for an answer.
    env["nnUNet_n_proc_DA"] = str(task.threads if task.threads > 1 else 0)
    # What the preparation took is known now; the trainer's processor time starts at nought.
    env["PEER_DEADLINE"] = str(task.left + (time.time() if task.clock == "wall" else 0))
    run([binaries / "nnUNetv2_train", NUMBER, configuration, "all", *trainer, *device], env)
    scans = ["-i", task.out / "nnunet" / "scans", "-o", task.out / "predictions", "-npp", "1", "-nps", "1"]
    run([binaries / "nnUNetv2_predict", *scans, "-d", NUMBER, "-c", configuration, "-f", "all", *trainer, *device], env)
    for file in task.out.joinpath("predictions").glob("*.json"):  # its notes lie beside its predictions
        file.unlink()
    plans = json.loads((folders["preprocessed"] / NAME / "nnUNetPlans.json").read_text(encoding="utf-8"))
    facts = json.loads((task.out / "facts.json").read_text(encoding="utf-8"))
    task.done(facts["steps"], f"nnU-Net {VERSION}: {describe(plans['configurations'][configuration])}")


def write_raw(task: Task, root: Path) -> None:
    """nnU-Net's raw layout with the labelled cases, and the scans to predict under nnU-Net's names."""
    for case in task.cohort.labelled:
        assert case.label is not None
        link(case.images[0], root / "imagesTr" / f"{case.id}_0000{image_suffix(case.images[0])}")
        link(case.label, root / "labelsTr" / f"{case.id}{image_suffix(case.label)}")
    for name, file in task.scans().items():
        link(file, task.out / "nnunet" / "scans" / f"{name}_0000{image_suffix(file)}")
    about = json.loads((task.cohort.root / "dataset.json").read_text(encoding="utf-8"))
    about.setdefault("channel_names", {"0": "image"})
    about |= {"numTraining": len(task.cohort.labelled), "file_ending": image_suffix(task.cohort.cases[0].images[0])}
    write_atomic(root / "dataset.json", json.dumps(about) + "\n")


def describe(plan: dict[str, Any]) -> str:
    spacing, patch = ("x".join(f"{n:g}" for n in plan[key]) for key in ("spacing", "patch_size"))
    return f"spacing {spacing}, patch {patch}, batch {plan['batch_size']}"


if __name__ == "__main__":
    main()
