"""No name of a file, case or class can steer the terminal."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.cli import main
from foveate.errors import Problem, refuse

WIPES = "wip\x1b[2Jes\x07"  # clears the screen and rings


def leave(*words: object) -> None:
    with pytest.raises(SystemExit):
        main([str(word) for word in words])


def test_messages_show_control_characters_as_a_sign() -> None:
    shown = str(Problem(WIPES, "name", WIPES, WIPES, WIPES))
    assert shown.count("wip\N{REPLACEMENT CHARACTER}[2Jes\N{REPLACEMENT CHARACTER}") == 4
    assert "\x1b" not in str(refuse(WIPES, "name", "one\ntwo", "three", "four"))
    assert "one\ntwo" in str(refuse(WIPES, "name", "one\ntwo", "three", "four"))


def test_tables_and_lists_of_commands_do_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    for number in range(4):
        folder = data / (WIPES if number % 2 else "calm")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{WIPES}{number}.png")
    (data / "calm" / f"{WIPES}.png").write_bytes(b"no picture")
    leave("check", data)
    out = tmp_path / "out"
    out.mkdir()
    lines = "".join(f"{name}/{WIPES}{n},{name},1,0\n" for n, name in enumerate(["calm", WIPES] * 2))
    (out / "predictions.csv").write_text(f"case,label,calm,{WIPES}\n{lines}")
    leave("evaluate", out, data)
    shown = capsys.readouterr()
    assert "wip\N{REPLACEMENT CHARACTER}[2Jes" in shown.out
    assert not {"\x1b", "\x07"} & {*shown.out, *shown.err}
