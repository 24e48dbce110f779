"""Whole images as patches: what a batch holds is what prediction shows the network, with the label beside it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from foveate.batches.cache import PreparedCohort
from foveate.batches.sampler import Sampler
from foveate.cohort.split import Split
from foveate.config import NetworkConfig
from foveate.networks import build_network
from foveate.predict.whole import WholePredictor
from foveate.tasks import build_task
from toys import STILL, prepared_case, tiny_plan


@pytest.mark.parametrize("shape", [(16, 9), (7, 16), (16, 16), (9, 10, 16), (21, 16, 22)])
def test_a_batch_holds_the_image_as_prediction_places_it(tmp_path, shape):
    plan = tiny_plan(len(shape), task="classification", whole=True, classes={"a": 0, "b": 1})
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float16)
    target = np.array([0, 1], np.float32)
    case = replace(prepared_case(tmp_path, "c", image, None), target=target)
    sampler = Sampler(PreparedCohort({"c": case}), plan, STILL, Split(("c",), (), ("c",)), 0, torch.device("cpu"))
    batch = sampler.batch(0, sampler.read(0, 2, 1), 1)
    task = build_task(plan)
    network = build_network(NetworkConfig(name="classifier"), plan, task.channels)
    placed = WholePredictor(network, task, plan).place(case.image)
    for seen in (*batch.images, *batch.weak):
        torch.testing.assert_close(seen, placed, atol=1e-3, rtol=0)
    assert batch.labels.tolist() == [[0, 1], [0, 1]]
