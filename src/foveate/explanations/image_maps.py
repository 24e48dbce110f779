"""Maps of a network that answers for whole images: what each place adds to an answer, attention, Grad-CAM.

Sources: Zhou et al., CVPR 2016, eq. 2 (evidence that adds up to the score); Selvaraju et al., ICCV 2017, eq. 1-2.
Departure: the evidence of classes that exclude each other is shown less its mean over them. The softmax does not change
when all logits rise alike; what is left says how a place tells the class from the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from foveate.explanations.maps import Explainer, MapName
from foveate.layers import at_voxels
from foveate.tasks import Task


class ImageExplainer(Explainer):
    """The maps of whole images, for networks ``[B, C, *S] -> [B, K]``.

    Evidence is made for networks that have ``evidence``; see ``foveate.networks.attention_cnn``.
    """

    def regions(self, x: Tensor) -> Tensor:
        """None: an image has one answer."""
        return x.new_zeros(0)

    def of_classes(
        self, x: Tensor, logits: Tensor, features: dict[str, Tensor], regions: Tensor | None
    ) -> dict[MapName, Tensor]:
        """Evidence of every class, and Grad-CAM at every layer."""
        maps: dict[MapName, Tensor] = {}
        names = class_names(self.task)
        if hasattr(self.network, "evidence"):
            evidence = relative(self.network.evidence(x).float(), self.task.exclusive)  # type: ignore[operator]
            for channel, of in enumerate(names):
                maps[MapName("evidence", "head", channel, of)] = evidence[:, channel : channel + 1].detach()
        for channel, of in enumerate(names):
            maps |= self.activations("grad_cam", channel, of, logits[:, channel].sum(), features)
        return maps

    def at_voxels(self, values: Tensor, size: Sequence[int]) -> Tensor:
        # The encoder's positions are centred on every n-th voxel.
        return at_voxels(values, strides(size, values))


def class_names(task: Task) -> list[str]:
    """What an answer says something of: the classes, or the one number of regression."""
    return list(task.classes) or ["value"]


def relative(evidence: Tensor, exclusive: bool) -> Tensor:
    """What speaks for each class ``[B, K, *S]``: against the others, where classes exclude each other."""
    return evidence - evidence.mean(1, keepdim=True) if exclusive else evidence


def strides(size: Sequence[int], feature: Tensor) -> list[int]:
    """Voxels of an image of this size from one position of ``feature [B, C, *s]`` to the next."""
    return [n // m for n, m in zip(size, feature.shape[2:], strict=True)]
