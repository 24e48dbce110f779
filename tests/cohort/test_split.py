"""No patient is ever on both sides."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.cohort.cohort import Case, Cohort
from foveate.cohort.split import FEWEST, hold_back_images, split_cases
from foveate.errors import InputError


def cohort(patients: list[str], labelled: list[bool]) -> Cohort:
    cases = tuple(
        Case(f"c{number}", (Path(f"{number}.nii"),), Path("label.nii") if known else None, patient)
        for number, (patient, known) in enumerate(zip(patients, labelled, strict=True))
    )
    return Cohort(Path(), "plain", 3, cases, ("image",), {"organ": 1})


CASES = st.lists(st.tuples(st.sampled_from([f"p{n}" for n in range(12)]), st.booleans()), max_size=60)


@given(CASES, st.integers(0, 5), st.sampled_from(["auto", 0, 1, 3]))
def test_patients_are_never_divided_and_no_labelled_case_is_lost(
    cases: list[tuple[str, bool]], seed: int, validation: Literal["auto"] | int
) -> None:
    whole = cohort([patient for patient, _ in cases], [known for _, known in cases])
    patient = {case.id: case.patient for case in whole.cases}
    teachers = {case.patient for case in whole.labelled}
    if validation != "auto" and validation >= max(len(teachers), 1):
        with pytest.raises(InputError, match="Some patients must be left to teach"):
            split_cases(whole, seed, validation)
        return
    split = split_cases(whole, seed, validation)
    held_back = {patient[case] for case in split.validation}
    assert held_back.isdisjoint(patient[case] for case in (*split.train, *split.unlabelled))
    assert sorted(split.train + split.validation) == sorted(case.id for case in whole.labelled)
    assert validation == "auto" or len(held_back) == validation
    if len(whole.labelled) < 5:
        assert validation != "auto" or split.validation == ()
    if whole.labelled:
        assert split.train
    assert split == split_cases(whole, seed, validation)


def test_another_seed_holds_back_others() -> None:
    whole = cohort([f"p{number}" for number in range(40)], [True] * 40)
    splits = [split_cases(whole, seed) for seed in range(4)]
    assert len({len(split.validation) for split in splits}) == 1
    assert len({split.validation for split in splits}) == 4


def test_holding_back_nothing_is_said() -> None:
    assert "one labelled case" in split_cases(cohort(["a", "b"], [True, False]), 0).notes[0]
    assert "no score is claimed: all 4 labelled" in split_cases(cohort(list("abcd"), [True] * 4), 0).notes[0]
    assert "No validation" in split_cases(cohort(["a"] * 30, [True] * 30), 0).notes[0]


def test_unlabelled_scans_of_held_back_patients_are_left_out() -> None:
    patients = [f"p{number}" for number in range(10)] * 2
    split = split_cases(cohort(patients, [True] * 10 + [False] * 10), 0, 2)
    assert len(split.validation) == 2
    assert len(split.unlabelled) == 8
    assert "2 unlabelled cases are left out" in split.notes[0]


@given(CASES, st.integers(0, 5), st.sampled_from([0, 1]))
def test_images_that_are_held_back_are_of_other_patients(
    cases: list[tuple[str, bool]], seed: int, validation: int
) -> None:
    whole = cohort([patient for patient, _ in cases], [known for _, known in cases])
    patient = {case.id: case.patient for case in whole.cases}
    if validation >= max(len({case.patient for case in whole.labelled}), 1):
        return
    split = split_cases(whole, seed, validation)
    images = hold_back_images(split, whole, seed)
    assert images.train == ()
    assert {patient[c] for c in images.validation}.isdisjoint(patient[c] for c in images.unlabelled)
    if validation:
        assert images.validation == split.validation
        return
    assert sorted(images.unlabelled + images.validation) == sorted(patient)
    assert bool(images.validation) == (len(cases) >= FEWEST and len(set(patient.values())) > 1)
    assert images == hold_back_images(split, whole, seed)
