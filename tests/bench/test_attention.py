"""What blocks cost: the count of memory against what must be held, fits against known growth, and the command."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from foveate.attention import ATTENTION
from foveate.bench import attention as bench
from foveate.cli import main
from foveate.errors import InputError

CPU = torch.device("cpu")
DEVICES = [CPU, *[torch.device("cuda")] * torch.cuda.is_available()]


@pytest.mark.parametrize("device", DEVICES)
def test_peak_memory_is_what_was_held_at_once(device: torch.device) -> None:
    x = torch.zeros(2**18, device=device)  # 1 MiB

    def call() -> None:
        first = x + 1
        second = first + 1  # two are held
        del first
        third = second + 1  # two again
        del second, third

    assert bench.peak_mib(call, device) == pytest.approx(2, abs=0.01)
    assert bench.peak_mib(lambda: x.add_(1), device) == pytest.approx(0, abs=0.01)


def test_forward_holds_what_backward_needs() -> None:
    class Square(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 2).square()  # holds x * 2 and the answer

    forward, backward, ahead, both = bench.measure(Square(), [torch.zeros(2**18)], 1.0)
    assert min(forward, backward) > 0
    assert ahead == pytest.approx(2, abs=0.01)
    assert both >= 3  # the gradient of the answer too


@pytest.mark.parametrize("power", [1.0, 4 / 3, 2.0])
def test_slopes_are_exponents(power: float) -> None:
    points = [bench.Point("x", "", 3, n, 1, 0.0, 3e-6 * n ** (3 * power), 0, 0) for n in (8, 12, 16, 24)]
    points[0] = bench.Point("x", "", 3, 8, 1, 1.0, 1.0, 0, 0)  # of a small image, which must not count
    assert bench.slope(points, "seconds") == pytest.approx(power)
    assert math.isnan(bench.slope(points[:2], "seconds"))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("window", 0.9, 1.1), ("neighbourhood", 0.9, 1.1), ("linear", 0.9, 1.1), ("axial", 0.9, 1.1)],
)
def test_memory_grows_linearly(name: str, low: float, high: float) -> None:
    points = []
    for side in (8, 12, 16):
        block, x = ATTENTION[name](8, 3), torch.randn(1, 8, side, side, side)

        def call(block: nn.Module = block, x: torch.Tensor = x) -> None:
            block(x).sum().backward()

        points.append(bench.Point(name, "", 3, side, 1, 0, 0, 0, bench.peak_mib(call, CPU)))
    assert low < bench.slope(points, "peak_mib") < high


def test_the_command_measures_every_block_and_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- begin attention-cost -->\n<!-- end attention-cost -->\nafter\n")
    line = f"bench attention --cubes 2,3,4 --squares 4 --channels 8 --threads 1 --results {tmp_path} --docs {page}"
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert not caught.value.code
    with (tmp_path / "attention-cpu.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ATTENTION:
        mine = [(row["dims"], row["side"]) for row in rows if row["block"] == name]
        assert mine == [("3", "2"), ("3", "3"), ("3", "4"), ("2", "4")]
        assert len([row for row in rows if row["beside"] == name]) == 4
    assert all(float(row["peak_mib"]) >= float(row["forward_mib"]) > 0 for row in rows)
    text = page.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert text.count("| neighbourhood |") == 2
    assert "`foveate bench attention --blocks all --cubes 2,3,4 --squares 4 --channels 8 --bound 10 --threads 1" in text
    for quantity in ("seconds", "peak_mib"):
        assert f"(../attention-cpu-{quantity}.png)" in text
        assert (tmp_path / f"attention-cpu-{quantity}.png").stat().st_size > 10_000
    assert "window at 4^3:" in capsys.readouterr().out


def test_a_size_that_would_take_too_long_is_left_out_and_said(tmp_path: Path) -> None:
    told: list[str] = []
    asked = bench.Settings(
        blocks=["linear"], cubes=(2, 64), squares=(), channels=4, bound=1e-4, threads=1, results=tmp_path
    )
    text = bench.attention(asked, told.append)
    assert [line.partition(":")[0] for line in told if "left out" in line] == [
        "non_local at 64^3 is left out",
        "linear at 64^3 is left out",
    ]
    assert text.count("over the bound |") == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": ["liner"]}, "Did you mean 'linear'"),
        ({"cubes": (8, 4)}, "--cubes"),
        ({"squares": (0,)}, "--squares"),
        ({"channels": 0}, "--channels"),
        ({"bound": math.nan}, "--bound"),
        ({"docs": (Path("absent.md"), "x")}, "absent.md"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench.attention(bench.Settings(**changes))
