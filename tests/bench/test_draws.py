"""Draws are nested, the same everywhere, independent of what is asked for, and show every class."""

import itertools
from pathlib import Path

import pytest
from made import ids

from foveate.bench.draws import Draws, draw_order
from foveate.cohort.cohort import Case
from foveate.errors import InputError


def cases(number: int, per_patient: int = 1) -> list[Case]:
    return [Case(f"c{i:02d}", (Path("i"),), Path("l"), f"p{i // per_patient:02d}") for i in range(number)]


def everything(case: Case) -> frozenset[str]:
    return frozenset({"front", "back"})


def only_one_shows_back(case: Case) -> frozenset[str]:
    return frozenset({"front", "back"} if case.id == "c07" else {"front"})


def draws(folder: Path, number: int = 40, shows=everything) -> Draws:
    return Draws(folder, cases(number), ("front", "back"), shows)


def test_draws_are_nested_and_do_not_depend_on_what_is_asked_first(tmp_path: Path) -> None:
    forward, backward = draws(tmp_path), draws(tmp_path)
    counts = (1, 4, 8, 16, 40)
    up = {count: set(forward.take(1, count)) for count in counts}
    down = {count: set(backward.take(1, count)) for count in reversed(counts)}
    assert up == down
    for few, more in itertools.pairwise(counts):
        assert len(up[few]) == few
        assert up[few] < up[more]


def test_a_draw_is_the_same_on_any_machine_and_draws_differ(tmp_path: Path) -> None:
    # Written down: no version of Python or NumPy, no order of files, may change what was trained on.
    assert draws(tmp_path).take(1, 4) == ["c06", "c07", "c22", "c32"]
    shuffled = Draws(tmp_path, cases(40)[::-1], ("front", "back"), everything)
    assert shuffled.take(1, 16) == draws(tmp_path).take(1, 16)
    assert len({tuple(draws(tmp_path).take(number, 4)) for number in range(6)}) == 6


def test_one_case_less_changes_no_more_than_one_case(tmp_path: Path) -> None:
    drawn = draws(tmp_path).take(2, 8)
    fewer = [case for case in cases(40) if case.id != drawn[3]]
    again = Draws(tmp_path, fewer, ("front", "back"), everything).take(2, 8)
    assert len(set(drawn) & set(again)) == 7


def test_patients_come_whole(tmp_path: Path) -> None:
    order = draw_order(cases(30, per_patient=3), 1, ("front",), everything)
    assert sorted(order) == [case.id for case in cases(30)]
    patient = {case.id: case.patient for case in cases(30, per_patient=3)}
    for start in range(0, 30, 3):
        assert len({patient[name] for name in order[start : start + 3]}) == 1


@pytest.mark.parametrize("number", range(5))
def test_a_rare_class_is_in_every_draw_and_a_draw_that_had_it_keeps_its_cases(tmp_path: Path, number: int) -> None:
    plain = draw_order(cases(40), number, ("front", "back"), everything)
    rare = draws(tmp_path, shows=only_one_shows_back)
    assert "c07" in rare.take(number, 2)
    there = plain.index("c07") + 1
    assert set(rare.take(number, there)) == set(plain[:there])


def test_a_class_that_cannot_be_in_the_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no (front|back).* in the 1 labels of draw 1"):
        Draws(
            tmp_path, cases(9), ("front", "back"), lambda case: frozenset({"front" if case.id < "c05" else "back"})
        ).take(1, 1)
    with pytest.raises(InputError, match="1 to 9"):
        draws(tmp_path, 9).take(0, 10)


def test_labels_are_opened_only_until_every_class_was_seen(tmp_path: Path) -> None:
    opened = []

    def shows(case: Case) -> frozenset[str]:
        opened.append(case.id)
        return everything(case)

    draw_order(cases(40), 0, ("front", "back"), shows)
    assert len(opened) == 1


def test_draw_0_is_what_the_dataset_lists(tmp_path: Path) -> None:
    ids(tmp_path / "labelled_2.txt", "c31", "c05")
    ids(tmp_path / "labelled_4.txt", "c05", "c31", "c01", "c02")
    drawn = draws(tmp_path)
    assert drawn.take(0, 2) == ["c05", "c31"]
    assert drawn.take(0, 4) == ["c01", "c02", "c05", "c31"]
    assert set(drawn.take(0, 4)) > set(drawn.take(0, 3)) > set(drawn.take(0, 2))
    assert set(drawn.take(0, 8)) > set(drawn.take(0, 4))
    assert drawn.take(1, 4) == draws(tmp_path / "absent").take(1, 4)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["c31"], "found 1 cases; expected 2"),
        (["c31", "t1"], "such as t1"),
        (["c31", "c05"], "no c01"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    ids(tmp_path / "labelled_1.txt", "c01")
    ids(tmp_path / "labelled_2.txt", *names)
    with pytest.raises(InputError, match=message):
        draws(tmp_path).take(0, 2)
