"""The whole configuration of a training run as typed models; YAML in and out; an unknown key is an error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from foveate.errors import InputError, Problem, invalid, refuse


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


RegressionLoss = Literal["gaussian", "huber"]


class AttentionSlots(Strict):
    """Which attention block sits in which slot of the network: a name of ATTENTION, or none.

    pool: of networks that answer for a whole image: a name of POOLING.
    """

    skip: str = "none"
    encoder: str = "none"
    bottleneck: str = "none"
    decoder: str = "none"
    pool: str = "attention"


class NetworkConfig(Strict):
    """Name of NETWORKS and its options. Widths, depth and strides come from the plan.

    head: how the finest logits are made; ``dense_upsampling`` makes them from the decoder's second finest stage.
    crf: the finest logits pass through a trainable conditional random field.
    boxes: a box network looks first, and the encoder sees the boxes that it draws; methods that learn from boxes turn
    it on.
    """

    name: str = "unet"
    attention: AttentionSlots = AttentionSlots()
    deep_supervision: bool = True
    head: Literal["convolution", "dense_upsampling"] = "convolution"
    crf: bool = False
    boxes: bool = False


class MethodConfig(Strict):
    """Name of METHODS and the options of the methods that learn from unlabelled scans.

    name: none: ``default_method`` chooses, by the task and by how few of the images have labels.
    unlabelled_weight: weight of the unlabelled loss once ramped up, 0 makes every method supervised; none: the method's
    own.
    unlabelled_share: share of a batch's images that are unlabelled once these teach; none: the method's own.
    start: fraction of training before unlabelled scans enter; none: the method's own, and not before the labelled
    ones have been shown often. ramp: fraction over which their weight grows.
    confidence: a voxel teaches only where the teacher's highest probability reaches this value; none: the method's own.
    gibbs_steps, persistent: of deep_belief alone: steps of a chain, and whether it goes on from the last step's end.
    box_weight, critic_weight, paired_masks: of adversarial_constraint alone: weight of what the boxes demand and of
    what the critic thinks, and whether a mask also teaches beside its own image.
    """

    name: str | None = None
    unlabelled_weight: float | None = Field(default=None, ge=0)
    unlabelled_share: float | None = Field(default=None, gt=0, lt=1)
    start: float | None = Field(default=None, ge=0, lt=1)
    ramp: float = Field(default=0.1, ge=0, le=1)
    confidence: float | None = Field(default=None, ge=0, lt=1)
    gibbs_steps: int = Field(default=1, ge=1)
    persistent: bool = False
    box_weight: float = Field(default=1.0, ge=0)
    critic_weight: float = Field(default=8.0, ge=0)
    paired_masks: bool = False


class PretrainConfig(Strict):
    """Pre-training on all scans within the run: a name of PRETRAINING, or none; share: of the bound that it takes."""

    name: str | None = None
    share: float = Field(default=0.3, gt=0, lt=1)


class OptimiserConfig(Strict):
    """AdamW, linear warm-up, polynomial decay to zero at the end of the bound; EMA weights are the model."""

    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    warmup_steps: int = Field(default=50, ge=0)
    power: float = Field(default=0.9, gt=0)
    clip: float = Field(default=5.0, gt=0)
    ema: float = Field(default=0.995, ge=0, lt=1)


class AugmentConfig(Strict):
    """Ranges of the augmentation; each p is the probability per image.

    mirror: ``auto`` mirrors pictures left-right and volumes not at all, because organs have sides; a list
    names array axes of the canonical (RAS) volume, or of the picture (0 = rows, 1 = columns).
    modality_p: of a random part of an image's modalities, for networks that take missing ones. cutout_p: of a hidden
    part, in strong views of images that have one answer.
    """

    rotation_degrees: float = Field(default=25.0, ge=0, le=180)
    scale: float = Field(default=0.2, ge=0, lt=1)
    affine_p: float = Field(default=0.6, ge=0, le=1)
    shift: float = Field(default=0.1, ge=0, le=0.5)
    elastic_p: float = Field(default=0.5, ge=0, le=1)
    elastic: float = Field(default=0.05, ge=0, le=0.3)
    blur_p: float = Field(default=0.2, ge=0, le=1)
    contrast_p: float = Field(default=0.3, ge=0, le=1)
    brightness_p: float = Field(default=0.3, ge=0, le=1)
    gamma_p: float = Field(default=0.3, ge=0, le=1)
    noise_p: float = Field(default=0.3, ge=0, le=1)
    noise: float = Field(default=0.2, ge=0)
    low_resolution_p: float = Field(default=0.1, ge=0, le=1)
    bias_p: float = Field(default=0.1, ge=0, le=1)
    modality_p: float = Field(default=0.5, ge=0, le=1)
    cutout_p: float = Field(default=0.5, ge=0, le=1)
    mirror: Literal["auto", "none"] | list[int] = "auto"

    def gentle(self) -> AugmentConfig:
        """The same without turning, zooming and bending."""
        return self.model_copy(update={"rotation_degrees": 0.0, "scale": 0.0, "elastic_p": 0.0})


class Config(Strict):
    """Everything that a run can be told. ``minutes`` or ``steps`` bounds training; the schedule fits the bound.

    validation: labelled cases held back to show a validation Dice, which chooses nothing; ``auto`` holds back a tenth
    once there are twenty labelled cases: with fewer, every label is worth more in training.
    init: run or model folder whose weights training starts from. pretrain: weights made within the run, to start from.
    clock: what minutes count: time as it passes, or the processor's time per thread, for comparisons beside other work.
    pieces: ``auto`` has predictions keep the largest piece of a structure that every labelled case shows in one, where
    there are a few of them; ``all`` keeps what is predicted, as for lesions, of which the next patient may have two.
    unlabelled_outliers: unlabelled scans that look unlike the cohort are set aside, or kept and only said.
    task: what is predicted; none: what the layout of the dataset says. regression_loss: ``gaussian`` also learns how
    far the answer may be off; ``huber`` minds outliers less.
    """

    minutes: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, gt=0)
    clock: Literal["wall", "processor"] = "wall"
    seed: int = Field(default=0, ge=0, lt=2**63)
    task: str | None = None
    regression_loss: RegressionLoss = "gaussian"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|gpu(:\d+)?)$")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    network: NetworkConfig = NetworkConfig()
    init: str | None = None
    pretrain: PretrainConfig = PretrainConfig()
    method: MethodConfig = MethodConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    augment: AugmentConfig = AugmentConfig()
    validation: Literal["auto"] | int = "auto"
    pieces: Literal["auto", "all"] = "auto"
    unlabelled_outliers: Literal["aside", "keep"] = "aside"
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    cache: str | None = None

    @model_validator(mode="before")
    @classmethod
    def names_are_enough(cls, data: Any) -> Any:
        """``method: supervised`` is short for ``method: {name: supervised}``; so are ``network`` and ``pretrain``."""
        if isinstance(data, dict):
            for key in ("method", "network", "pretrain"):
                if isinstance(data.get(key), str):
                    data = {**data, key: {"name": data[key]}}
        return data

    @model_validator(mode="after")
    def one_bound(self) -> Config:
        if self.minutes is not None and self.steps is not None:
            raise ValueError("one bound of training")
        return self


def load_config(
    path: Path | None = None, overrides: Iterable[str] = (), *, base: Config | None = None, **values: Any
) -> Config:
    """The configuration from a YAML file, then ``key=value`` overrides, then ``values`` that are not None.

    Keys may be dotted ("network.attention.skip=gate"). Text is only ever text: YAML tags are refused, and
    "$..." or "_target_" mean nothing here. base: what holds where nothing else is said; the defaults if None.

    Raises InputError that lists every unknown key (with the nearest known one) and every value out of range.
    """
    data: dict[str, Any] = base.model_dump(mode="json") if base else {}
    source = str(path) if path else "command line"
    if path is not None:
        _merge(data, _read_yaml(path))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip(" ."):
            raise refuse("--set", override, "no '='", "key=value", "Write for instance --set method.ramp=0.2.")
        try:
            value = yaml.load(text, Loader=_PlainLoader)
        except (yaml.YAMLError, ValueError):
            value = text
        _assign(data, key.strip().split("."), value)
    for key, value in values.items():
        if value is not None:
            _assign(data, [key, "name"] if key in ("method", "network", "pretrain") else [key], value)
    # A bound given on the command line replaces the other bound from the file.
    for given, other in (("minutes", "steps"), ("steps", "minutes")):
        if values.get(given) is not None and values.get(other) is None:
            data.pop(other, None)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise InputError([_problem(source, item) for item in error.errors()]) from None


def dump_config(config: Config) -> str:
    """The configuration as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


class _PlainLoader(yaml.SafeLoader):
    """Plain keys and values: no tags, no aliases (which can blow up a small file), no key given twice."""

    # Without dates: 2024-10-11 is the name of a folder.
    yaml_implicit_resolvers: ClassVar = {  # type: ignore[misc]
        first: [(tag, pattern) for tag, pattern in some if not tag.endswith(":timestamp")]
        for first, some in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias (*name)", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key that is no word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
    except FileNotFoundError:
        raise refuse(path, "file", "nothing", "a YAML configuration", "Check the path given to --config.") from None
    except OSError as error:
        raise refuse(path, "file", error.strerror, "a YAML configuration", "Give a file that can be read.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        found = " ".join(str(error).split())[:200]
        fix = "Tags such as !!python, aliases and repeated keys are not read."
        raise refuse(path, "YAML", found, "plain keys and values", fix) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise refuse(path, "YAML", type(data).__name__, "keys and values", "Start from a run's config.yaml.")
    return data


def _assign(data: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        child = data.get(key)
        if not isinstance(child, dict):
            child = {} if child is None else {"name": child}
        data[key] = child
        data = child
    data[keys[-1]] = value


def _merge(data: dict[str, Any], over: dict[Any, Any]) -> None:
    """Lay ``over`` on ``data``, branch by branch; a name alone replaces the name and keeps the other options."""
    for key, value in over.items():
        below = data.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            _merge(below, value)
        elif isinstance(below, dict) and isinstance(value, str):
            below["name"] = value
        else:
            data[key] = value


def _problem(source: str, item: Any) -> Problem:
    location = [str(part) for part in item["loc"]]
    name = ".".join(location)
    if item["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        return Problem(source, name, "an unknown key", "one of " + ", ".join(known), _nearest(location, known))
    if not location:  # the rule about bounds: its input is everything, which says nothing
        return replace(invalid(source, item, "Remove one of them."), field="minutes and steps", found="both")
    return invalid(source, item, "Correct the value.")


def _nearest(location: list[str], known: list[str]) -> str:
    """What to do about an unknown key: the like-named key beside it, or the key of that name elsewhere."""
    near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {'.'.join([*location[:-1], near[0]])!r}?"
    leaves = {key.rpartition(".")[2]: key for key in _every_key(Config)}
    near = difflib.get_close_matches(location[-1], leaves, n=1, cutoff=0.8)
    return f"Did you mean {leaves[near[0]]!r}?" if near else "Remove it."


def _every_key(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            keys += _every_key(nested, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _known_keys(parents: list[str]) -> list[str]:
    model: Any = Config
    for parent in parents:
        annotation = model.model_fields[parent].annotation if parent in model.model_fields else None
        options = [annotation, *get_args(annotation)]
        model = next(
            (option for option in options if isinstance(option, type) and issubclass(option, BaseModel)),
            Config,
        )
    return sorted(model.model_fields)
