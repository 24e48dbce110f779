"""PyMIC as a peer of ``foveate bench label-efficiency``: its mean teacher with its 3D U-Net, from the command line.

pymic_train with supervise_type semi_sup (see ``pymic_launcher.py`` for what a CPU needs) and pymic_test with its
sliding window, from the latest checkpoint. A user of PyMIC writes a configuration: this one is ours, with the network's
default widths, mild transforms, Dice with cross-entropy, Adam with PyMIC's polynomial decay, two labelled and two
unlabelled patches a step, and a patch of the labelled scans' median size, at most 80 x 112 x 112, as in the literature
on the left atrium. PyMIC has no plan and trains at the scans' own resolution. It asks for validation cases: it gets the
labelled ones, once, at the end, because its "best" checkpoint is not used and they take as long as many iterations. The
number of iterations is told from those of a short first training, which is no part of the minutes, and the decay ends
with the last of them.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from adapter import Task, environment, read_task, run

from foveate.errors import FoveateError

VERSION = "0.6.2"
UNDECLARED = ("scipy<2", "einops", "timm", "ml_collections", "monai", "imops")  # but imported
PROBE = 6  # iterations of the first training
DIVISOR = 16  # of the patch: the network halves it four times
LARGEST = (80, 112, 112)  # voxels, z y x
CONFIGURATION = """
[dataset]
tensor_type = float
task_type = seg
supervise_type = {supervision}
train_dir = {root}
train_csv = {folder}/labelled.csv
train_csv_unlab = {folder}/unlabelled.csv
valid_csv = {folder}/labelled.csv
test_dir = {images}
test_csv = {folder}/scans.csv
train_batch_size = 2
train_batch_size_unlab = 2
num_worker = {workers}
modal_num = 1
patch_size = {patch}
train_transform = [Pad, RandomCrop, RandomFlip, {intensity}, LabelToProbability]
train_transform_unlab = [Pad, RandomCrop, RandomFlip, {intensity}]
valid_transform = [NormalizeWithMeanStd, Pad, LabelToProbability]
test_transform = [NormalizeWithMeanStd, Pad]
Pad_output_size = {patch}
Pad_ceil_mode = False
RandomCrop_output_size = {patch}
RandomCrop_foreground_focus = True
RandomCrop_foreground_ratio = 0.5
RandomFlip_flip_depth = False
RandomFlip_flip_height = True
RandomFlip_flip_width = True
NormalizeWithMeanStd_channels = [0]
GammaCorrection_channels = [0]
GammaCorrection_gamma_min = 0.7
GammaCorrection_gamma_max = 1.5
GaussianNoise_channels = [0]
GaussianNoise_mean = 0
GaussianNoise_std = 0.05
GaussianNoise_probability = 0.5

[network]
net_type = UNet
dimension = 3
class_num = {classes}
in_chns = 1
feature_chns = [32, 64, 128, 256, 512]
dropout = [0.0, 0.0, 0.2, 0.3, 0.4]

[training]
gpus = [0]
deterministic = True
random_seed = {seed}
loss_type = [DiceLoss, CrossEntropyLoss]
loss_weight = [1.0, 1.0]
optimizer = Adam
learning_rate = 1e-3
momentum = 0.9
weight_decay = 1e-5
lr_scheduler = PolynomialLR
lr_power = 0.9
ckpt_dir = {model}
ckpt_prefix = model
iter_max = {iterations}
iter_valid = {iterations}
iter_save = {iterations}

[semi_supervised_learning]
method_name = MeanTeacher
regularize_w = 0.1
ema_decay = 0.99
rampup_start = 0
rampup_end = {iterations}

[testing]
gpus = [0]
ckpt_mode = 0
output_dir = {folder}/predictions
sliding_window_enable = True
sliding_window_size = {patch}
sliding_window_stride = {stride}
"""


def main(supervision: str = "semi_sup") -> None:
    """supervision: as PyMIC calls it, semi_sup or fully_sup."""
    task = read_task(__doc__)
    values = sorted(value for value in task.cohort.classes.values() if isinstance(value, int))
    if task.cohort.dims != 3 or values != list(range(1, len(task.cohort.classes) + 1)):
        raise SystemExit("PyMIC gets volumes whose classes are 1, 2, 3, ... and no regions")
    python = environment("pymic", f"PyMIC=={VERSION}", *UNDECLARED) / "python"
    folder = task.out / "pymic"
    write_lists(task, folder)
    patch = pick_patch(task)
    about = {"supervision": supervision, "root": task.cohort.root.resolve(), "images": task.images, "folder": folder}
    about |= {"patch": listed(patch), "stride": listed([n // 2 for n in patch]), "classes": len(values) + 1}
    about |= {"intensity": "NormalizeWithMeanStd, GammaCorrection, GaussianNoise"}
    about |= {"seed": task.seed, "workers": task.threads if task.threads > 1 else 0}

    def pymic(command: str, iterations: int, model: str) -> float:
        """Seconds that a command took, by the clock that was asked for."""
        path, before = folder / f"{model}.cfg", task.left
        text = CONFIGURATION.format(**about, model=folder / model, iterations=iterations)
        path.write_text(text, encoding="utf-8")
        # -P: this folder's pymic.py must not stand in front of PyMIC
        launcher = [python, "-P", Path(__file__).with_name("pymic_launcher.py")]
        told = [command, "cuda" if task.cuda else "cpu", task.clock, path]
        run([*launcher, *told], {"OMP_NUM_THREADS": str(task.threads)})
        return before - task.left

    seconds = pymic("train", PROBE, "probe")
    training = training_seconds(folder / "probe")
    left = 60 * task.minutes - (seconds - training)  # the start and the validation come once more
    iterations = max(math.floor(left / (training / PROBE)), 1)
    pymic("train", iterations, "model")
    pymic("predict", iterations, "model")
    for file in folder.joinpath("predictions").glob("*.nii*"):
        file.replace(task.out / "predictions" / file.name)
    name = "mean teacher" if supervision == "semi_sup" else "supervised"
    task.done(iterations, f"PyMIC {VERSION}, {name}: patch {'x'.join(map(str, patch[::-1]))}, batch 2")


def write_lists(task: Task, folder: Path) -> None:
    """The lists of files that a configuration names, relative to its folders."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])

    cases = [(f"images/{c.images[0].name}", f"labels/{c.label.name}") for c in task.cohort.labelled if c.label]
    write("labelled.csv", ("image", "label"), cases)
    write("unlabelled.csv", ("image",), [(f"images/{case.images[0].name}",) for case in task.cohort.unlabelled])
    write("scans.csv", ("image",), [(file.name,) for file in task.scans().values()])


def pick_patch(task: Task) -> list[int]:
    """Median size of the labelled scans as multiples of DIVISOR, z y x."""
    shapes = [nib.load(case.images[0]).shape[:3][::-1] for case in task.cohort.labelled]
    median = np.median(np.array(shapes), axis=0)
    sizes = np.maximum(np.round(median / DIVISOR), 1).astype(int) * DIVISOR
    return [min(int(size), most) for size, most in zip(sizes, LARGEST, strict=True)]


def training_seconds(model: Path) -> float:
    """Seconds of the iterations alone, as PyMIC logs them."""
    text = "".join(file.read_text(encoding="utf-8") for file in sorted(model.glob("log_train_*.txt")))
    found = re.findall(r"training/validation time: ([0-9.]+)s/", text)
    if not found:
        raise FoveateError(f"{model}: PyMIC logged no times")
    return float(found[-1])


def listed(numbers: Sequence[int]) -> str:
    return f"[{', '.join(map(str, numbers))}]"


if __name__ == "__main__":
    main()
