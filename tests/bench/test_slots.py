"""What blocks cost in their slots: every block in the places that the network has, and the command."""

from pathlib import Path

import pytest
import torch

from foveate.attention import ATTENTION
from foveate.bench import slots as bench
from foveate.bench.ablation import USUAL
from foveate.cli import main
from foveate.config import AttentionSlots, NetworkConfig
from foveate.errors import InputError


@pytest.mark.parametrize("slot", ["encoder", "skip", "bottleneck"])
def test_places_are_the_features_that_the_network_gives_the_slot(slot, monkeypatch):
    """Counted where the U-Net calls its blocks."""
    seen = []
    name = next(name for name in ATTENTION if USUAL.get(name, "encoder") == slot)
    settings = bench.Settings(patch=(16, 24), widths=(4, 8, 16), batch=3)
    forward = ATTENTION[name].forward

    def record(self, x, *others):
        seen.append(tuple(x.shape))
        return forward(self, x, *others)

    monkeypatch.setattr(ATTENTION[name], "forward", record)
    network = bench.network(settings, NetworkConfig(attention=AttentionSlots(**{slot: name})))
    network(torch.randn(3, 1, 16, 24))
    assert sorted(seen) == sorted(bench.places(slot, settings))


def test_the_command_measures_every_block_and_writes_the_page(tmp_path: Path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin slot-cost -->\n<!-- end slot-cost -->\nafter\n")
    with pytest.raises(SystemExit) as caught:
        main(f"bench slots --patch 8,8,4 --batch 1 --widths 4,8,16 --threads 1 --docs {page}".split())
    assert not caught.value.code
    text = page.read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == list(ATTENTION)
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "`foveate bench slots --blocks all --patch 8,8,4 --batch 1 --widths 4,8,16 --threads 1" in text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"patch": (9, 8, 8)}, "--patch"),
        ({"patch": (8,)}, "--patch"),
        ({"batch": 0}, "--batch"),
        ({"widths": ()}, "--widths"),
        ({"blocks": ("nothing",)}, "--blocks"),
        ({"blocks": ("gate", "non_local"), "patch": (192, 192)}, "--patch: found non_local among 9216 voxels"),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        bench.slots(bench.Settings(**{"patch": (8, 8, 8), "widths": (4, 8), **wrong}))
