"""The mutants of a module: its source with one operator, constant, refusal or step changed."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from typing import TYPE_CHECKING, Any

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
    ast.Mult: ast.Add,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


@attrs.frozen
class Mutant:
    """A changed source; ``name`` says where and what, and stays the same while the line does."""

    name: str
    line: int
    source: str


def mutants(path: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    tree = ast.parse(source)
    lines = source.splitlines()
    skipped = {id(node) for root in ast.walk(tree) for node in _left_alone(root)}
    seen: Counter[str] = Counter()
    for place, node in enumerate(ast.walk(tree)):
        for number in range(0 if id(node) in skipped else _count(node)):
            changed = copy.deepcopy(tree)
            what = _change(list(ast.walk(changed))[place], number)
            line = getattr(node, "lineno", 0)
            key = f"{path}: {lines[line - 1].strip()}: {what}"
            seen[key] += 1
            name = key if seen[key] == 1 else f"{key} ({seen[key]})"
            yield Mutant(name, line, ast.unparse(ast.fix_missing_locations(changed)))


def _left_alone(node: ast.AST) -> Iterator[ast.AST]:
    """What is only read by people or by mypy: messages, annotations, imports for types."""
    if isinstance(node, ast.JoinedStr) or _is_text(node):
        yield from ast.walk(node)
    for name in ("annotation", "returns"):
        if isinstance(found := getattr(node, name, None), ast.AST):
            yield from ast.walk(found)
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        yield from ast.walk(node)
    if isinstance(node, ast.Call) and ast.unparse(node.func) in {"lru_cache", "TypeVar"}:
        yield from ast.walk(node)
    if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
        yield from ast.walk(node)


def _is_text(node: ast.AST) -> bool:
    """Say whether that is a docstring or a message: those begin with a small letter."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    text = node.value if isinstance(node, ast.Constant) else None
    return isinstance(text, str) and " " in text and text[0].islower()


def _count(node: ast.AST) -> int:
    """How many changes a node can suffer."""
    counts: dict[type[ast.AST], Callable[[Any], int]] = {
        ast.Compare: lambda n: sum(type(operator) in SWAPS for operator in n.ops),
        ast.AugAssign: lambda n: 1 + (type(n.op) in SWAPS),
        ast.BinOp: lambda n: type(n.op) in SWAPS,
        ast.BoolOp: lambda n: type(n.op) in SWAPS,
        ast.Constant: lambda n: isinstance(n.value, int | str | bytes),
        ast.UnaryOp: lambda n: isinstance(n.op, ast.Not),
        ast.Dict: lambda n: len(n.keys),
        ast.Return: lambda n: n.value is not None and ast.unparse(n.value) != "None",
        ast.Assign: lambda n: isinstance(n.targets[0], ast.Attribute),
        ast.Expr: lambda n: isinstance(n.value, ast.Call),
    }
    if isinstance(node, ast.Raise | ast.IfExp | ast.Break | ast.Continue):
        return 1
    return int(counts[type(node)](node)) if type(node) in counts else 0


def _change(node: ast.AST, number: int) -> str:
    """Change a node in place; say what became of it."""
    if isinstance(node, ast.AugAssign) and number == 1:
        return _swap(node)
    if type(node) in _CHANGES:
        return _CHANGES[type(node)](node, number)
    node.__class__ = ast.Pass
    return "statement dropped"


def _other_operator(node: ast.Compare, number: int) -> str:
    old = node.ops[number]
    node.ops[number] = SWAPS[type(old)]()  # type: ignore[call-overload]
    return f"{_kind(old)} to {_kind(node.ops[number])}"


def _without_not(node: ast.UnaryOp, _: int) -> str:
    node.operand = ast.UnaryOp(ast.Not(), node.operand)
    return "not dropped"


def _without_entry(node: ast.Dict, number: int) -> str:
    key = node.keys.pop(number)
    del node.values[number]
    return f"{'**' if key is None else ast.unparse(key)} dropped"


def _without_value(node: ast.Return, _: int) -> str:
    node.value = None
    return "value dropped"


def _other_branch(node: ast.IfExp, _: int) -> str:
    node.body, node.orelse = node.orelse, node.body
    return "branches swapped"


def _swap(node: ast.BinOp | ast.AugAssign | ast.BoolOp, _: int = 0) -> str:
    old = node.op
    node.op = SWAPS[type(old)]()  # type: ignore[assignment]
    return f"{_kind(old)} to {_kind(node.op)}"


def _other_constant(node: ast.Constant, _: int) -> str:
    before: Any = node.value
    if isinstance(before, bool):
        node.value = not before
    else:
        node.value = before + {int: 1, str: "~", bytes: b"~"}[type(before)]
    return f"{before!r} to {node.value!r}"


def _kind(operator: ast.AST) -> str:
    return type(operator).__name__


_CHANGES: dict[type[ast.AST], Callable[[Any, int], str]] = {
    ast.Compare: _other_operator,
    ast.BinOp: _swap,
    ast.BoolOp: _swap,
    ast.Constant: _other_constant,
    ast.UnaryOp: _without_not,
    ast.Dict: _without_entry,
    ast.Return: _without_value,
    ast.IfExp: _other_branch,
}
