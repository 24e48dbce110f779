"""What every learning method is: it says what to minimise; the engine owns everything else."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from foveate.batches.sampler import Batch
from foveate.config import MethodConfig
from foveate.tasks import Task

ENOUGH = 120  # showings of every place of the labelled images: until then unlabelled ones do harm (docs/benchmarks.md)
Turn = tuple[str, dict[str, Tensor]]
Builder = Callable[..., nn.Module]
# What a method may say that it serves: where an answer is all that it asks of a task; where it must be a probability.
ANY_TASK = ("segmentation", "classification", "regression")
OF_CLASSES = ("segmentation", "classification")
# Keys of MethodConfig that say when, how many and how much unlabelled scans teach.
TEACHING = ("unlabelled_weight", "unlabelled_share", "start", "ramp")
BOXES = "detection"  # where the loss alone compares with a pseudo-label: there is no distance between sets of boxes


class Method(nn.Module):
    """Base of the methods. ``state_dict()`` holds student and averaged weights, so a checkpoint needs no more.

    strong_views: strongly augmented views wanted of each unlabelled image.
    labellings: how often the engine labels all unlabelled scans with the average, from ``start`` on (Batch.pseudo).
    memory: pseudo-labels are then mean probabilities of all labellings so far, in which each weighs this share of the
        next; else they are what the last one answered, decided.
    start: progress from which unlabelled scans teach, unless the configuration says otherwise, and unless the labelled
        ones will have been shown too seldom by then (begins).
    views: how often the whole training would show each place of the labelled images, were there no others: what the
        engine foresees.
    learns_labels: false of pre-training, which sees every scan as an image and leaves no segmenter behind.
    learns_boxes: true of a method that learns from boxes, and from masks without their images (Batch.boxes, .masks).
    critic_losses: names of the losses of a critic, which are no part of what is shown as the loss.
    options: keys of MethodConfig that mean something to it, beside its name.
    watches_images: true of pre-training whose images held back show what it has learnt by heart.
    unlabelled_weight: weight of the unlabelled loss once ramped up, unless the configuration says otherwise. A squared
        difference of probabilities is small beside cross-entropy and Dice, so methods that learn by it weigh it more.
    unlabelled_shares: by task, the share of a batch that is unlabelled once such images teach, where it is not a half
        and the configuration says nothing.
    confidence: a pseudo-label teaches where it is surer than this, unless the configuration or the task says otherwise
        (sureness).
    build: makes another network for the same task and plan, with other random weights; ``build("name")`` one of
        another architecture. For the methods that train more than one.
    tasks: names of TASKS that it serves; reason: why it does not serve the others.
    average: exponential moving average (EMA) of the network's weights and buffers. It is the teacher of the methods
        that have one, and the model that is saved.
    """

    strong_views: ClassVar[int] = 0
    uses_unlabelled: ClassVar[bool] = True
    labellings: ClassVar[int] = 0
    memory: ClassVar[float | None] = None
    learns_labels: ClassVar[bool] = True
    learns_boxes: ClassVar[bool] = False
    critic_losses: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[str, ...]] = (*TEACHING, "confidence")
    watches_images: ClassVar[bool] = False
    unlabelled_shares: ClassVar[Mapping[str, float]] = {}
    confidence: ClassVar[float] = 0.0
    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    reason: ClassVar[str] = "compares answers voxel by voxel"
    start: float = 0.2
    unlabelled_weight: float = 1.0
    views: float = math.inf

    def __init__(
        self, network: nn.Module, task: Task, config: MethodConfig, decay: float, build: Builder | None = None
    ) -> None:
        super().__init__()
        self.network, self.task, self.config, self.decay = network, task, config, decay
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.start = self.start if config.start is None else config.start
        weight = config.unlabelled_weight
        self.unlabelled_weight = self.unlabelled_weight if weight is None else weight
        share = config.unlabelled_share
        self.unlabelled_share = self.unlabelled_shares.get(task.name, 0.5) if share is None else share
        self.sureness = next(c for c in (config.confidence, task.confidence, self.confidence) if c is not None)

    def players(self) -> dict[str, nn.Module]:
        """The modules that are trained, one optimiser each; a teacher is no player."""
        return {"network": self.network}

    def model(self) -> dict[str, Tensor]:
        """The weights that are saved as the model."""
        return self.average.state_dict()

    @property
    def begins(self) -> float:
        """Progress from which unlabelled scans teach; above 1 where they never do.

        A network that is still learning from its labels is a poor teacher, and each unlabelled image takes the place of
        a labelled one. So these come first, until they have been shown often, unless the configuration says when.
        """
        if self.config.start is not None or not self.learns_labels or self.learns_boxes:
            return self.start
        return max(self.start, ENOUGH / max(self.views, 1e-9))

    def weight(self, progress: float) -> float:
        """Weight of the unlabelled loss: 0 until ``begins``, then a Gaussian ramp of length ``ramp`` (Laine 2017)."""
        begins = self.begins
        if not self.uses_unlabelled or progress < begins:
            return 0.0
        t = 1.0 if self.config.ramp == 0 else min((progress - begins) / self.config.ramp, 1.0)
        return self.unlabelled_weight * math.exp(-5.0 * (1 - t) ** 2)

    def shares(self, batch: int, progress: float, pool: float = 1.0) -> tuple[int, int]:
        """How many of ``batch`` images are labelled and unlabelled. Unlabelled ones replace labelled ones, so that a
        step sends as many images through the student as one of the baseline; a method that looks at an image more than
        once stays below 2.2 steps of the baseline (a forward pass without gradient is a third of one with).

        pool: share of the images of the dataset that are unlabelled. They take no more of a batch, though always one:
        in batches of some size a handful of them is not shown more often than what has labels.
        """
        if self.weight(progress) == 0:
            return batch, 0
        unlabelled = max(int(batch * min(self.unlabelled_share, pool)), 1)
        return max(batch - unlabelled, 1), unlabelled

    def turns(self, batch: Batch, progress: float) -> Iterator[Turn]:
        """Yield (player, named weighted losses); resumes after that player has stepped.

        As it stands here: labelled images alone while a batch has no others, then what ``losses`` says.
        """
        weight = self.weight(progress)
        if len(batch.weak) and weight:
            yield "network", self.losses(batch, weight)
        else:
            yield "network", self.task.loss(self.network(batch.images), self.task.encode(batch.labels))

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        """Named losses of a batch with unlabelled images, theirs times ``weight``: what a method of one player adds."""
        raise NotImplementedError

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """average <- d * average + (1 - d) * network over parameters and buffers, d = min(decay, (1 + s) / (10 + s)):
        early averages must forget the random start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mean, value in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def divide(outputs: Tensor | list[Tensor], count: int) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of one pass, as lists finest first: those of the first ``count`` images, and those of the others."""
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return [output[:count] for output in outputs], [output[count:] for output in outputs]


def finest(outputs: Tensor | list[Tensor]) -> Tensor:
    """The logits of full resolution."""
    return outputs[0] if isinstance(outputs, list) else outputs


def randomness(batch: Batch) -> torch.Generator:
    """The source of a method's own random choices in this step: a replayed step draws the same."""
    return torch.Generator(batch.images.device).manual_seed(batch.seed)


def weighted(losses: dict[str, Tensor], weight: float, name: str = "unlabelled") -> dict[str, Tensor]:
    """The same losses times ``weight``, under names that say what they are of."""
    return {f"{name} {key}": weight * value for key, value in losses.items()}
