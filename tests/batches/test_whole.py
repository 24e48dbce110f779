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


def test_strong_views_of_whole_images_have_a_geometry_of_their_own(tmp_path):
    plan = tiny_plan(2, task="classification", whole=True, classes={"a": 0, "b": 1}, mirror_axes=())
    image = np.random.default_rng(0).normal(size=(1, *plan.patch)).astype(np.float16)
    case = replace(prepared_case(tmp_path, "c", image, None), target=np.array([0, 1], np.float32))
    turning = STILL.model_copy(update={"rotation_degrees": 45.0, "shift": 0.0, "affine_p": 1.0})
    sampler = Sampler(PreparedCohort({"c": case}), plan, turning, Split(("c",), (), ("c",)), 0, torch.device("cpu"))
    batch = sampler.batch(0, sampler.read(0, 1, 3), 2)
    placed = torch.from_numpy(image).float()
    for weak in batch.weak:  # turned in no view that a pseudo-label is made of
        torch.testing.assert_close(weak, placed, atol=1e-3, rtol=0)
    views = [placed, *batch.images, *batch.strong[0], *batch.strong[1]]
    for i, view in enumerate(views):
        assert all((view - other).abs().max() > 0.1 for other in views[:i])
