"""``--init``: a run that starts from the weights which another run has saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from foveate.cohort.plan import Plan
from foveate.config import NetworkConfig
from foveate.errors import InputError, Problem, refuse
from foveate.methods import Method
from foveate.predict.model_file import DESCRIPTION, WEIGHTS, SavedModel, find_model, load_model

NAMED = 3  # tensors that a note names
GEOMETRY = ("spacing", "patch", "batch", "widths", "strides")  # what a run takes over from the plan it starts from


def read_start(path: str, recorded: Mapping[str, Any] | None = None) -> SavedModel:
    """The model of the run or model folder ``path``; a pickle is never opened.

    recorded: what the provenance of a run that goes on before its first checkpoint says of it.
    Raises InputError when it cannot be read, or is no longer what the run was started with.
    """
    model = load_model(find_model(Path(path)))
    if recorded is not None and recorded.get("weights_sha256") != model.sha256:
        expected = f"{str(recorded.get('weights_sha256'))[:12]}..., as when the run was started"
        fix = "Put the weights back as they were, or train in another folder."
        raise refuse(model.folder / WEIGHTS, "SHA-256", f"{model.sha256[:12]}...", expected, fix)
    return model


def record_of(model: SavedModel) -> dict[str, Any]:
    """What the provenance of a run keeps of the model that it was started from."""
    return {"model": str(model.folder), "task": model.task, "weights_sha256": model.sha256}


def plan_like(plan: Plan, other: Plan) -> Plan | None:
    """``plan`` with voxel size, patch, batch and network of ``other``; None when the images are of another kind.

    Normalisation, classes and mirror axes stay those of the cohort at hand.
    """
    if plan.dims != other.dims or _kinds(plan) != _kinds(other):
        return None
    return plan.model_copy(update={name: getattr(other, name) for name in GEOMETRY} | {"step_seconds": None})


def refuse_unlike(model: SavedModel, plan: Plan, network: NetworkConfig) -> None:
    """Raise InputError that lists every reason why the weights of ``model`` do not fit the network that is planned."""
    other, path = model.plan, str(model.folder / DESCRIPTION)
    images = "Start from a run on images of the same kind, or without --init."
    widths = "Train in a new run folder that holds a plan.json with those of the model, or without --init."
    rows = (
        ("network.name", model.network.name, network.name, f"Give --network {model.network.name}, or no --init."),
        ("plan.dims", other.dims, plan.dims, images),
        ("plan.channels", len(other.channels), len(plan.channels), images),
        ("plan.widths", list(other.widths), list(plan.widths), widths),
        ("plan.strides", [list(s) for s in other.strides], [list(s) for s in plan.strides], widths),
    )
    problems = [
        Problem(path, field, str(found), f"{wanted}, as in the run to be trained", fix)
        for field, found, wanted, fix in rows
        if found != wanted
    ]
    if problems:
        raise InputError(problems)


def start_from(model: SavedModel, method: Method, plan: Plan) -> str:
    """Copy every tensor of ``model`` whose name and shape fit into the network; the average starts equal to it.

    Heads of other classes stay fresh. Returns a note that counts what was taken and says whether ``plan``, by which
    the run trains, is like the model's. Raises InputError when nothing fits.
    """
    own = method.network.state_dict()
    fitting = [key for key, value in own.items() if key in model.state and model.state[key].shape == value.shape]
    fresh = [key for key in own if key not in fitting]
    if not fitting:
        found = f"{len(model.state)} tensors, none of a name and shape that the network has"
        fix = "Start from a run with the same network, or without --init."
        raise refuse(model.folder / WEIGHTS, "tensors", found, f"such as {next(iter(own))}", fix)
    with torch.no_grad():
        for key in fitting:
            own[key].copy_(model.state[key])
    method.average.load_state_dict(own)
    more = f" and {len(fresh) - NAMED} more" if len(fresh) > NAMED else ""
    rest = f"; fresh: {', '.join(fresh[:NAMED])}{more}" if fresh else ""
    if like := plan_like(plan, model.plan):
        same = {name: getattr(like, name) == getattr(plan, name) for name in GEOMETRY}
        said = "are those of its plan" if all(same.values()) else "are not all those of its plan"
        said = f"Voxel size, patch, batch and network {said}."
    else:
        said = f"Its images are of another kind ({_kinds(model.plan)}, here {_kinds(plan)}): the plan is not its own."
    return f"Started from {model.folder}: {len(fitting)} of {len(own)} tensors taken{rest}. {said}"


def _kinds(plan: Plan) -> str:
    return ", ".join(channel.normalisation for channel in plan.channels)
