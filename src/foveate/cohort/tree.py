"""The label tree of a dataset: which classes a coarser one divides into, and how ``dataset.json`` says so.

``"tree": {"whole": ["core", "oedema"], "core": ["enhancing", "necrotic"]}``: a node and what it divides into. Leaves
are classes; so are nodes that some label shows undivided. What is no child stands at the top, beside the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from foveate.errors import Problem
from foveate.text import one_form

Tree = Mapping[str, Sequence[str]]
Classes = Mapping[str, int | tuple[int, ...]]


def read_tree(path: Path, value: object, classes: Classes, problems: list[Problem]) -> dict[str, tuple[str, ...]]:
    """Node -> its children, from the key ``tree``; {} without one. What is wrong is noted, and what is left is no tree
    to train by: it only says which classes need no voxel of their own."""
    if value is None:
        return {}
    tree: dict[str, tuple[str, ...]] = {}
    found: list[Problem] = []

    def wrong(field: str, what: str, expected: str, fix: str) -> None:
        found.append(Problem(str(path), field, what, expected, fix))

    for node, children in value.items() if isinstance(value, dict) else ():
        names = [one_form(child) for child in children if isinstance(child, str)] if isinstance(children, list) else []
        tree[one_form(node)] = tuple(names)
        if len(names) < 2 or len(names) < len(children):
            wrong(f"tree.{node}", repr(children)[:80], "a list of two or more names", "Name what it divides into.")
    if not isinstance(value, dict) or not value:
        wrong("tree", repr(value)[:80], '{"node": ["child", "child"], ...}', "Name nodes and what they divide into.")
    if any(isinstance(label, tuple) for label in classes.values()):
        fix = "Remove the tree, or give each class one value; a node of the tree joins what lies below it by itself."
        wrong("tree", "a tree beside regions", "classes of one value each", fix)
    if not found:
        known = {**classes, **tree}
        parents: dict[str, str] = {}
        for node, children in tree.items():
            for child in children:
                if child not in known:
                    expected = f"a class of labels or a node of the tree: {', '.join(known)}"
                    wrong(f"tree.{node}", f"{child!r}, an unknown label", expected, "Add it to labels, or correct it.")
                elif child in parents:
                    where = "twice" if parents[child] == node else f"below {parents[child]!r} too"
                    fix = "Remove it from one of the two places."
                    wrong(f"tree.{node}", f"{child!r}, which stands {where}", "each label in one place", fix)
                parents.setdefault(child, node)
        for cycle in _cycles(parents):
            text = " -> ".join([*reversed(cycle), cycle[-1]])
            wrong(f"tree.{cycle[-1]}", f"a cycle: {text}", "nodes that divide into finer ones", "Break the cycle.")
    problems += found
    return tree


def _cycles(parents: Mapping[str, str]) -> list[list[str]]:
    """Every circle of nodes of which each is the parent of the one before it, once."""
    cycles, done = [], set[str]()
    for start in parents:
        way: list[str] = []
        node: str | None = start
        while node is not None and node not in done:
            done.add(node)
            way.append(node)
            node = parents.get(node)
        if node in way:
            cycles.append(way[way.index(node) :])
    return cycles


def families(classes: Classes, tree: Tree) -> list[tuple[str | None, list[str]]]:
    """(node, its children) from the top down; first those at the top, whose node is None."""
    below = {child for children in tree.values() for child in children}
    waiting: list[tuple[str | None, list[str]]] = [
        (None, [name for name in dict.fromkeys([*classes, *tree]) if name not in below])
    ]
    ordered: list[tuple[str | None, list[str]]] = []
    while waiting:
        ordered += waiting
        waiting = [(child, list(tree[child])) for _, children in waiting for child in children if child in tree]
    return ordered


def values_below(name: str, classes: Classes, tree: Tree) -> set[int]:
    """The label values of a class or node and of all that lies below it."""
    own = classes.get(name, ())
    below = (values_below(child, classes, tree) for child in tree.get(name, ()))
    return set(own if isinstance(own, tuple) else (own,)).union(*below)


def leaf_classes(classes: Classes, tree: Tree) -> dict[str, int | tuple[int, ...]]:
    """The classes that divide into nothing finer."""
    return {name: value for name, value in classes.items() if name not in tree}


def coarse_values(classes: Classes, tree: Tree) -> dict[int, set[str]]:
    """Of every class that divides into others: its label value -> the leaves below it."""
    leaves = leaf_classes(classes, tree)
    return {
        value: {leaf for leaf, own in leaves.items() if own in values_below(name, classes, tree)}
        for name, value in classes.items()
        if name in tree and isinstance(value, int)
    }
