"""Where a network with attention looks, for the page of its run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from foveate.batches.prepare import PreparedCohort
from foveate.engine.fit_plan import out_of_memory
from foveate.explanations.attention import attention_blocks
from foveate.predict.detecting import BoxPredictor
from foveate.predict.predictor import AnyPredictor
from foveate.report.pictures import View


def attention_view(
    predictor: AnyPredictor, prepared: PreparedCohort, shown: Sequence[tuple[str, str]], note: Callable[[str], None]
) -> View | None:
    """The maps of the first case ``shown`` (id, caption); None for a network without any, or one that answers with
    boxes.

    Where memory is too little for it the page goes without, and the person who trains is told.
    """
    if isinstance(predictor, BoxPredictor) or not shown or not attention_blocks(predictor.network):
        return None
    from foveate.explanations.glance import attention_picture  # heavy, and most networks have no attention

    name, caption = shown[0]
    try:
        picture = attention_picture(predictor, prepared[name])
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        note("Too little memory for the picture of where the network looks: the report goes without it.")
        return None
    return None if picture is None else View(f"{name}, {caption}", picture)
