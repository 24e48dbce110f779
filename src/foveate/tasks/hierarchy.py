"""Segmentation by a label tree: a softmax over the children of every node, and labels that may stop at any node.

p(node) is the product, over its path from the root, of the softmax over siblings. The cross-entropy of a label is the
sum over its path of -log of those, so what lies below a label that stops early gets no gradient.

Sources: Redmon & Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017, sec. 4 (softmax over siblings, coarse
labels); Li et al., "Deep Hierarchical Semantic Segmentation", CVPR 2022 (trees in segmentation). Departures: Dice,
beside the cross-entropy, of every node but the background, each over the voxels whose label says whether they belong
to it; none of the hinge and triplet losses of Li et al.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foveate.cohort.cohort import IGNORE
from foveate.cohort.plan import Plan
from foveate.cohort.tree import families, values_below
from foveate.tasks.segmentation import Segmentation
from foveate.tasks.task import Target


class HierarchicalSegmentation(Segmentation):
    """A channel for the background and for every node of the tree; children lie side by side, parents before them.

    Targets and probabilities are those of nodes. A target whose children have less than their parent leaves open which
    of them it is. Answers, confidence and entropy are those of leaves.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        names, self.families = ["background"], list[tuple[int | None, slice]]()
        for parent, children in families(plan.classes, plan.tree):
            start = 0 if parent is None else len(names)
            names += children
            self.families.append((None if parent is None else names.index(parent), slice(start, len(names))))
        self.names, self.channels = names, len(names)
        self.lookup = torch.zeros(self.channels, 256)
        for node, name in enumerate(names[1:], 1):
            self.lookup[node, sorted(values_below(name, plan.classes, plan.tree))] = 1
        self.lookup[0] = 1 - self.lookup.amax(0)
        self.lookup[:, IGNORE] = 0
        self.leaves = [node for node, name in enumerate(names) if name not in plan.tree]
        self.values = torch.tensor([plan.classes.get(name, 0) for name in names], dtype=torch.uint8)

    def of_siblings(self, logits: Tensor) -> list[Tensor]:
        """Per family log softmax over its children, in float32."""
        return [logits[:, children].float().log_softmax(1) for _, children in self.families]

    def of_nodes(self, logits: Tensor) -> Tensor:
        """Log-probability of every node ``[B, T, *S]``."""
        done: list[Tensor] = []
        for (parent, _), family in zip(self.families, self.of_siblings(logits), strict=True):
            done += (family if parent is None else family + done[parent]).split(1, dim=1)
        return torch.cat(done, dim=1)

    def known(self, target: Target) -> Tensor:
        """Of every node ``[B, T, *S]``: the target's weight, less where the label stops above the node."""
        values = target.values
        known = [torch.ones_like(target.weight)] * self.channels
        for parent, children in self.families:
            if parent is not None:
                stopped = (values[:, parent : parent + 1] - values[:, children].sum(1, keepdim=True)).clamp(0, 1)
                known[children] = [known[parent] - stopped] * (children.stop - children.start)
        return torch.cat(known, dim=1).clamp_min(0) * target.weight

    def taught(self, target: Target) -> Target:
        """Shares of that part of a voxel whose label does not stop above the node: a coarse voxel may hold both."""
        known = self.known(target)
        told = known / target.weight.clamp_min(1e-6)
        return Target((target.values / told.clamp_min(1e-6)).clamp_max(1), known)

    def cross_entropy(self, logits: Tensor, values: Tensor) -> Tensor:
        return -(values * torch.cat(self.of_siblings(logits), dim=1)).sum(1, keepdim=True)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of every node ``[B, T, *S]``: those of leaves sum to one, those of children to their parent's."""
        return self.of_nodes(logits).exp()

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Of every leaf."""
        return self.of_nodes(logits)[:, self.leaves]

    def sureness(self, values: Tensor) -> Tensor:
        return values[:, self.leaves].amax(1, keepdim=True)

    def entropy(self, values: Tensor) -> Tensor:
        """Over leaves: -sum p log p / log of their number."""
        kept = values[:, self.leaves].clamp_min(1e-7)
        return torch.special.entr(kept).sum(1, keepdim=True) / math.log(len(self.leaves))

    def harden(self, target: Target) -> Target:
        """1 for the likeliest leaf and all nodes above it."""
        labels = self.values[self.leaves].to(target.values.device)[target.values[:, self.leaves].max(1).indices]
        return Target(self.encode(labels).values, target.weight)

    def likeliest(self, logits: Tensor) -> Tensor:
        leaves = torch.tensor(self.leaves, device=logits.device)
        return leaves[self.log_probabilities(logits).max(1).indices]

    def score(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Hard Dice of every leaf but the background; NaN also where labels stop above it in place of showing it."""
        truth, leaves = self.encode(labels), self.leaves[1:]
        known = self.known(truth)[:, leaves] > 0
        a = self.encode(predicted).values[:, leaves].bool() & known
        b = truth.values[:, leaves].bool() & known
        axes = (0, *range(2, a.ndim))
        dice = 2 * (a & b).sum(axes) / (a.sum(axes) + b.sum(axes))
        open_ = (~known & (truth.weight > 0)).any(0).flatten(1).any(1) & ~b.any(0).flatten(1).any(1)
        return dice.masked_fill(open_, torch.nan)
