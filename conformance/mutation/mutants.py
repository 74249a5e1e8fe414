"""The mutants of a module: its source with one operator, number or refusal changed."""

from __future__ import annotations

import ast
import copy
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
Change: TypeAlias = "Callable[[ast.AST], str]"


@attrs.frozen
class Mutant:
    """A changed source; ``name`` says where and what, and stays the same while the line does."""

    name: str
    line: int
    source: str


def mutants(path: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    tree = ast.parse(source)
    lines = source.splitlines()
    skipped = {id(node) for root in ast.walk(tree) for node in _left_alone(root)}
    nodes = [node for node in ast.walk(tree) if id(node) not in skipped]
    seen: dict[str, int] = {}
    for place, node in enumerate(nodes):
        for number in range(_count(node)):
            changed = copy.deepcopy(tree)
            twin = [n for n, old in _pairs(changed, tree) if id(old) not in skipped][place]
            what = _change(twin, number)
            line = getattr(node, "lineno", 0)
            key = f"{path}: {lines[line - 1].strip()}: {what}"
            seen[key] = seen.get(key, 0) + 1
            name = key if seen[key] == 1 else f"{key} ({seen[key]})"
            yield Mutant(name, line, ast.unparse(ast.fix_missing_locations(changed)))


def _pairs(changed: ast.AST, tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    return zip(ast.walk(changed), ast.walk(tree), strict=True)


def _left_alone(node: ast.AST) -> Iterator[ast.AST]:
    """What is only read by people or by mypy: texts, annotations, imports for types."""
    if isinstance(node, ast.JoinedStr):
        yield from ast.walk(node)
    for name in ("annotation", "returns"):
        if isinstance(found := getattr(node, name, None), ast.AST):
            yield from ast.walk(found)
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        yield from ast.walk(node)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "lru_cache":
        yield from ast.walk(node)


def _count(node: ast.AST) -> int:
    """How many changes a node can suffer."""
    if isinstance(node, ast.Compare):
        return sum(type(operator) in SWAPS for operator in node.ops)
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        return int(type(node.op) in SWAPS)
    if isinstance(node, ast.Constant):
        return int(isinstance(node.value, int))
    if isinstance(node, ast.UnaryOp):
        return int(isinstance(node.op, ast.Not))
    return int(isinstance(node, ast.Raise | ast.IfExp | ast.Break | ast.Continue))


def _change(node: ast.AST, number: int) -> str:
    """Change a node in place; say what became of it."""
    if isinstance(node, ast.Compare):
        old = node.ops[number]
        new = SWAPS[type(old)]()
        node.ops[number] = new  # type: ignore[call-overload]
        return f"{type(old).__name__} to {type(new).__name__}"
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        old_name = type(node.op).__name__
        node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
        return f"{old_name} to {type(node.op).__name__}"
    if isinstance(node, ast.Constant):
        before = node.value
        node.value = not before if isinstance(before, bool) else before + 1  # type: ignore[operator]
        return f"{before!r} to {node.value!r}"
    return _replace(node)


def _replace(node: ast.AST) -> str:
    if isinstance(node, ast.UnaryOp):
        node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), node.operand)
        return "not dropped"
    if isinstance(node, ast.IfExp):
        node.body, node.orelse = node.orelse, node.body
        return "branches swapped"
    what = type(node).__name__.lower()
    node.__class__ = ast.Pass
    return f"{what} dropped"
