"""`__all__` of every module is what it offers, and modules use of each other what is offered."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("robopolicy", "envs", "hardware")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "assets" not in path.parts
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def defined(tree: ast.Module) -> Iterator[str]:
    """Public names of the module's own: classes, functions, constants. Type variables are of nobody's use."""
    for node in (inner for outer in tree.body for inner in [outer, *getattr(outer, "orelse", [])]):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and "TypeVar(" not in ast.unparse(node.value):
            places = [place for target in node.targets for place in getattr(target, "elts", [target])]
            yield from (place.id for place in places if isinstance(place, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id


def passed_on(tree: ast.Module) -> Iterator[str]:
    """Names that come from elsewhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def offered(tree: ast.Module) -> list[str] | None:
    """`__all__`, if it is there as a list of words."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value)) if isinstance(node.value, ast.List) else None
    return None


def imports(tree: ast.Module, *, at_once: bool) -> Iterator[tuple[str, str]]:
    """What is imported from our modules, as (module, name); `at_once`: as soon as the module is."""
    nodes = tree.body if at_once else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module in FILES:
            yield from ((node.module, alias.name) for alias in node.names)


def test_all_is_what_the_module_defines() -> None:
    for name in FILES.keys() - {"robopolicy"}:
        tree = TREES[name]
        own = {word for word in defined(tree) if not word.startswith("_")}
        offers = offered(tree) or []
        assert own <= set(offers), name
        assert set(offers) <= own | set(passed_on(tree)), name
        assert len(offers) == len(set(offers)), name


def test_the_package_offers_what_it_can_give() -> None:
    import robopolicy

    for name in robopolicy.__all__:
        assert getattr(robopolicy, name) is not None


def test_modules_import_what_is_offered() -> None:
    offers = {module: {*(offered(tree) or ()), "__version__"} for module, tree in TREES.items()}
    against = [
        f"{user}: {module}.{name}"
        for user, tree in TREES.items()
        for module, name in imports(tree, at_once=False)
        if f"{module}.{name}" not in FILES and name not in offers[module]
    ]
    assert not against, against


def test_imports_have_no_circles() -> None:
    graph = {
        user: {f"{m}.{n}" if f"{m}.{n}" in FILES else m for m, n in imports(tree, at_once=True)}
        for user, tree in TREES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names them
