"""The attention of every block of a network that can be looked at, by hooks: no block knows of them.

Contract: ``foveate.attention``. A block is any module whose class has a method ``attention``; it is called with what
``forward`` is called with, just before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def attention_blocks(network: nn.Module) -> dict[str, Any]:
    """The blocks that can be looked at by their names in the network."""
    # Asked of the class: a submodule that happens to be called ``attention`` is no method.
    return {name: m for name, m in network.named_modules() if callable(getattr(type(m), "attention", None))}


@contextmanager
def watching(blocks: Mapping[str, Any]) -> Iterator[dict[str, Tensor]]:
    """While inside, every forward leaves the attention of ``blocks`` in the dict, the last where one runs twice.

    The weights are detached, in float32. No output changes, and the hooks are gone afterwards.
    """
    found: dict[str, Tensor] = {}
    asking = False

    def look(name: str) -> Callable[..., None]:
        def hook(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal asking
            if asking:  # a block inside a block that is being asked runs again, in its own forward
                return
            asking = True
            try:
                with torch.no_grad():
                    found[name] = block.attention(*args, **kwargs).float()
            finally:
                asking = False

        return hook

    handles = [block.register_forward_pre_hook(look(name), with_kwargs=True) for name, block in blocks.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def weighs_channels(weights: Tensor, window: tuple[int, ...]) -> bool:
    """Whether ``weights`` are ``[B, C, 1, ...]``, one for each channel, and not a map of the window."""
    single = all(n == 1 for n in weights.shape[2:])
    return single and weights.shape[1] > 1 and any(n > 1 for n in window)
