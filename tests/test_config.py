"""The configuration: unknown keys are refused with a suggestion, and text is only ever text."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveate.config import Config, dump_config, load_config
from foveate.errors import InputError


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_two_bounds_are_told_apart_from_one() -> None:
    with pytest.raises(InputError) as caught:
        load_config(minutes=1, steps=2)
    said = "command line: minutes and steps: found both; expected one bound of training. Remove one of them."
    assert str(caught.value) == said


def test_every_default_survives_the_file(tmp_path: Path) -> None:
    config = load_config(
        None, ["network.attention.skip=gate", "augment.mirror=[0, 2]"], minutes=1.5, method="supervised"
    )
    assert load_config(write(tmp_path, dump_config(config))) == config
    assert config.network.attention.skip == "gate"
    assert config.method.name == "supervised"
    assert config.augment.mirror == [0, 2]


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("optimiser.learningrate=1", "Did you mean 'optimiser.learning_rate'"),
        ("optimizer.clip=1", "Did you mean 'optimiser'"),
        ("methd=supervised", "Did you mean 'method'"),
        ("network.attention.skp=gate", "Did you mean 'network.attention.skip'"),
        ("learning_rate=1", "Did you mean 'optimiser.learning_rate'"),
        ("method.warmup_step=1", "Did you mean 'optimiser.warmup_steps'"),
        ("xyzzy=1", "Remove it"),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(override: str, suggestion: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(None, [override])
    assert suggestion in str(caught.value)
    assert override.startswith(caught.value.problems[0].field)


def test_all_mistakes_are_listed_in_one_pass(tmp_path: Path) -> None:
    path = write(
        tmp_path, "seeed: 1\nmethod: {name: supervised, ramp: 7}\noptimiser: {clip: many}\naugment: {mirror: up}\n"
    )
    with pytest.raises(InputError) as caught:
        load_config(path)
    fields = {problem.field for problem in caught.value.problems}
    assert {"seeed", "method.ramp", "optimiser.clip"} <= fields
    assert any(field.startswith("augment.mirror") for field in fields)
    assert all(problem.file == str(path) for problem in caught.value.problems)


@pytest.mark.parametrize("value", [".nan", ".inf", "-1", "0"])
def test_numbers_that_cannot_train_are_refused(value: str) -> None:
    with pytest.raises(InputError, match=r"optimiser\.learning_rate"):
        load_config(None, [f"optimiser.learning_rate={value}"])


def test_exponents_without_a_dot_are_numbers() -> None:
    assert load_config(None, ["optimiser.learning_rate=1e-3"]).optimiser.learning_rate == 1e-3


HOSTILE = [
    "!!python/object/apply:os.system ['touch {}']",
    "!!python/name:os.system",
    "cache: !!python/object/apply:os.system ['touch {}']",
    "cache: !include /etc/passwd",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_yaml_tags_are_refused_and_run_nothing(tmp_path: Path, text: str) -> None:
    touched = tmp_path / "touched"
    path = write(tmp_path, text.format(touched))
    with pytest.raises(InputError, match=r"config\.yaml: YAML: .*Tags"):
        load_config(path)
    # On the command line, what is no plain YAML is text like any other.
    assert load_config(None, ["cache=" + text.format(touched)]).cache == text.format(touched)
    assert not touched.exists()


def test_dollar_and_target_are_plain_text_or_unknown_keys(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    dollar = f"$__import__('os').system('touch {touched}')"
    config = load_config(write(tmp_path, f'cache: "{dollar}"\nnetwork: {{name: "$HOME"}}\n'))
    assert config.cache == dollar
    assert config.network.name == "$HOME"
    with pytest.raises(InputError, match=r"network\._target_: found an unknown key"):
        load_config(write(tmp_path, "network: {_target_: os.system, name: unet}\n"))
    assert not touched.exists()


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{c}: &{c} [*{p}, *{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(InputError, match="alias"):
        load_config(write(tmp_path, bomb))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("seed: 1\nseed: 2\n", "given twice"),
        ("- seed\n", "list"),
        ("just words", "str"),
        ("a: [1", "expected"),
        ("[" * 3000, "recursion"),
        ("? [1, 2]\n: 3\n", "a key that is no word"),
        ("seed: 99999999999999999999\n", "less than 9223372036854775808"),
    ],
)
def test_files_that_are_no_configuration_are_refused(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(InputError, match=found):
        load_config(write(tmp_path, text))


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Check the path given to --config"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="can be read"):
        load_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\x80\x04\x95\xff")
    with pytest.raises(InputError, match="plain keys and values"):
        load_config(tmp_path / "binary.yaml")


def test_a_bound_from_the_command_line_replaces_the_other_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 100\n")
    config = load_config(path, minutes=2)
    assert (config.minutes, config.steps) == (2, None)
    with pytest.raises(InputError, match="one bound of training"):
        load_config(path, ["minutes=2"])


def test_text_that_looks_like_a_date_is_text() -> None:
    for name in ("2024-13-45", "2024-10-11"):
        assert load_config(overrides=[f"init={name}"]).init == name


def test_a_base_holds_where_nothing_else_is_said(tmp_path: Path) -> None:
    base = load_config(None, ["method.ramp=0.3", "network.attention.skip=gate"], steps=10, seed=4)
    assert load_config(base=base) == base
    over = load_config(
        write(tmp_path, "method: supervised\nnetwork: {attention: {decoder: gate}}\n"), base=base, seed=5
    )
    assert (over.method.name, over.method.ramp, over.seed, over.steps) == ("supervised", 0.3, 5, 10)
    assert (over.network.attention.skip, over.network.attention.decoder) == ("gate", "gate")


@pytest.mark.parametrize("device", ["cuda", "gpu:", "gpu:x", "GPU", ""])
def test_unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(InputError, match="device"):
        load_config(device=device)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from([*Config.model_fields, "x", "", "$", "_target_"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "mirror", "x"]), inner)
            ),
            max_leaves=4,
        ),
        max_size=4,
    )
)
def test_whatever_the_file_says_it_loads_or_is_refused(tmp_path: Path, data: dict[str, object]) -> None:
    path = write(tmp_path, yaml.safe_dump(data))
    try:
        config = load_config(path)
    except InputError:
        return
    assert load_config(write(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("method.start=abc", "method.start: found 'abc'; expected a number. Correct the value."),
        ("optimiser.ema=2", "optimiser.ema: found 2; expected a number less than 1. Correct the value."),
        ("seed=x", "seed: found 'x'; expected a whole number. Correct the value."),
        ("augment.mirror=maybe", "augment.mirror: found 'maybe'; expected 'auto' or 'none'. Correct the value."),
    ],
)
def test_what_was_expected_is_said_in_plain_words(given: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(overrides=[given])
    assert said in str(caught.value)
