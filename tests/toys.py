"""Small plans and prepared scans that tests of several parts share."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from foveate.batches.cache import PreparedCase, PreparedCohort, write_array
from foveate.batches.grid import Grid
from foveate.batches.prepare import sample_voxels
from foveate.batches.sampler import Sampler
from foveate.cohort.plan import ChannelPlan, Plan
from foveate.config import AugmentConfig
from foveate.engine.labelling import Labelling
from foveate.engine.schedule import Schedule
from foveate.methods import Method
from foveate.networks import NETWORKS
from foveate.predict.predictor import Predictor

# Nothing changes: what is cut out of a scan is what a batch holds.
STILL = AugmentConfig(
    affine_p=0,
    elastic_p=0,
    blur_p=0,
    contrast_p=0,
    brightness_p=0,
    gamma_p=0,
    noise_p=0,
    low_resolution_p=0,
    cutout_p=0,
    bias_p=0,
    mirror="none",
)

# Networks that answer for every voxel.
SEGMENTING = [name for name, network in NETWORKS.items() if "segmentation" in network.tasks]


def tiny_plan(dims: int = 2, **changes: object) -> Plan:
    """Two classes, three stages; the finest stage has 4 channels."""
    values: dict[str, object] = {
        "dims": dims,
        "spacing": (1.0,) * dims,
        "patch": (16,) * dims,
        "batch": 4,
        "channels": (ChannelPlan(name="MR", normalisation="zscore"),),
        "classes": {"front": 1, "back": 2},
        "widths": (4, 6, 8),
        "strides": ((1,) * dims, (2,) * dims, (2,) * dims),
    }
    return Plan.model_validate(values | changes)


def scan(shape: tuple[int, ...], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A noisy ball whose halves are classes 1 and 2: image ``[*shape]`` float32, labels ``[*shape]`` uint8."""
    centre = [n * random.uniform(0.4, 0.6) for n in shape]
    offsets = np.meshgrid(*[np.arange(n) - c for n, c in zip(shape, centre, strict=True)], indexing="ij")
    ball = sum(o**2 for o in offsets) < (0.3 * min(shape)) ** 2
    labels = (ball * np.where(offsets[0] < 0, 1, 2)).astype(np.uint8)
    return (labels + random.normal(0, 0.2, shape)).astype(np.float32), labels


def prepared_case(folder: Path, name: str, image: np.ndarray, labels: np.ndarray | None) -> PreparedCase:
    """Files of one prepared case: image ``[C, *S]``, labels ``[*S]`` or None."""
    grid = Grid.unchanged(image.shape[1:])
    write_array(folder / f"{name}.npy", image.astype(np.float16))
    if labels is None:
        return PreparedCase(name, grid, folder / f"{name}.npy")
    write_array(folder / f"{name}.label.npy", labels)
    write_array(folder / f"{name}.voxels.npy", sample_voxels(labels))
    return PreparedCase(name, grid, folder / f"{name}.npy", folder / f"{name}.label.npy", folder / f"{name}.voxels.npy")


def boxes_and_masks(cohort: PreparedCohort) -> tuple[dict[str, PreparedCase], dict[str, PreparedCase]]:
    """For a sampler: unlabelled cases whose boxes are the values of somebody's label, and the labels without images."""
    masks = {name: cohort[name] for name in cohort.labelled}
    of = {"label_path": next(iter(masks.values())).label_path, "voxels_path": next(iter(masks.values())).voxels_path}
    return {name: replace(cohort[name], **of) for name in cohort.unlabelled}, masks


def pseudo_labels(folder: Path, method: Method, sampler: Sampler, schedule: Schedule) -> Callable[[], None]:
    """What ``train_loop`` calls before a step, so that a method that wants pseudo-labels gets them."""
    predictor = Predictor(method.average, method.task, sampler.plan)
    labelling = Labelling(folder / "pseudo", predictor, sampler.cohort, sampler, method, schedule)

    def before_step() -> None:
        if labelling.due:
            labelling.make(lambda *_: None)

    return before_step


def toy_cohort(
    folder: Path,
    plan: Plan,
    labelled: int = 3,
    unlabelled: int = 3,
    shape: tuple[int, ...] | None = None,
    draw: Callable[[tuple[int, ...], np.random.Generator], tuple[np.ndarray, np.ndarray]] = scan,
) -> PreparedCohort:
    """Cases L0, L1, ... with and U0, U1, ... without a label. Of several channels, every other one is inverted."""
    random = np.random.default_rng(0)
    shape = shape or tuple(n + 6 for n in plan.patch)
    cases = {}
    for name in [f"L{i}" for i in range(labelled)] + [f"U{i}" for i in range(unlabelled)]:
        image, labels = draw(shape, random)
        image = np.stack([image * (-1) ** channel for channel in range(len(plan.channels))])
        cases[name] = prepared_case(folder, name, image, labels if name[0] == "L" else None)
    return PreparedCohort(cases)
