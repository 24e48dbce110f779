"""The attention of every block in one window of a prepared case: a picture for the page of a training run, no check."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from foveate.batches.cache import PreparedCase
from foveate.batches.prepare import as_shown
from foveate.explanations.image_maps import ImageExplainer
from foveate.explanations.maps import Explainer
from foveate.explanations.pictures import Panel, overview
from foveate.explanations.whole import answer_lines
from foveate.predict.predictor import Predictor
from foveate.predict.whole import WholePredictor
from foveate.slices import best_cut, to_draw

_COLUMNS = 3  # of panels: the page is about as wide


def attention_picture(predictor: Predictor | WholePredictor, case: PreparedCase) -> bytes | None:
    """PNG: the window around what the label marks with the prediction, and every map over it; None without a map.

    One forward pass of one window; of whole images also those of the answer, which is averaged over mirrorings.
    """
    image = np.array(case.image, np.float32)
    members: dict[str, tuple[int, ...]] = {}
    explainer: Explainer
    if isinstance(predictor, Predictor):
        members = {k: v if isinstance(v, tuple) else (v,) for k, v in predictor.plan.classes.items()}
        values = [value for group in members.values() for value in group]
        marked = np.zeros(image.shape[1:], bool) if case.label is None else np.isin(case.label, values)
        x = predictor.patch_prepared(torch.from_numpy(image), marked)
        explainer = Explainer(predictor.network, predictor.task, predictor.answer)
        maps, logits = explainer.attention(x)
        inside = tuple(slice(n) for n in x.shape[2:])
        labels = predictor.tidy(predictor.task.decode(logits)[0].cpu().numpy()).labels
        lines = ["Prediction", "in this window alone"]
    else:
        values = []
        x = predictor.place(image)[None].to(predictor.device)
        explainer = ImageExplainer(predictor.network, predictor.task, predictor.answer)  # type: ignore[arg-type]
        maps, _ = explainer.attention(x)
        _, inside = predictor.overlap(image.shape[1:])  # the rest of the patch is padding
        labels = np.zeros(x.shape[2:], np.uint8)[inside]
        lines = answer_lines(predictor.task, predictor.task.answers(predictor.logits([image]))[0])
    window = x[0].cpu().numpy()[(slice(None), *inside)]
    shown = {name: found[0, 0].cpu().numpy()[inside] for name, found in maps.items() if name.applies(window)}
    if not shown:
        return None
    # Prepared volumes lie in canonical orientation, so their affine is the spacing alone.
    affine = np.diag([*case.spacing, 1.0]) if window.ndim == 4 else None
    cut = best_cut(np.isin(labels, values), case.spacing, affine)
    cut = replace(cut, title=cut.title.split(",")[0])  # the slice is counted in the window, which nobody else knows
    drawn = to_draw(as_shown(window, predictor.plan), [channel.name for channel in predictor.plan.channels])
    panels = [Panel(cut.of(found), name.title) for name, found in shown.items()]
    return overview(case.id, cut.of(drawn), cut.of(labels), members, cut, panels, lines, _COLUMNS)
