"""The baseline: labelled scans alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from foveate.batches.sampler import Batch
from foveate.methods.method import Method, Turn


class Supervised(Method):
    """Minimises the task's loss on labelled images; the model is the EMA of the weights, as in every method."""

    uses_unlabelled: ClassVar[bool] = False

    def turns(self, batch: Batch, progress: float) -> Iterator[Turn]:
        yield "network", self.task.loss(self.network(batch.images), self.task.encode(batch.labels))
