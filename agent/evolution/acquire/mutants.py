"""Programs and queries with one mistake each: what tells them from the right one proves something.

Mutation testing (DeMillo, Lipton and Sayward 1978, doi:10.1109/C-M.1978.218136). A mutant that
does the same as the original cannot be told from it, so not every one has to be.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import islice

MOST = 12  # mutants of a program, spread over it

_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
}  # fmt: skip
_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


def program_mutants(code: str) -> list[str]:
    """A program with one operator, constant, condition or returned value changed, each time.

    Args:
        code: Python that parses.
    """
    try:
        found = list(dict.fromkeys(_mutated(code)))
    except RecursionError:  # nested too deeply to be written out again
        return []
    return found[:: max(1, -(-len(found) // MOST))]


def _mutated(code: str) -> Iterator[str]:
    same = ast.unparse(ast.parse(code))
    for number in range(sum(1 for _ in _changes(ast.parse(code)))):
        tree = ast.parse(code)
        next(islice(_changes(tree), number, None))()
        if (text := ast.unparse(ast.fix_missing_locations(tree))) != same:
            yield text


def _changes(tree: ast.AST) -> Iterator[_Change]:
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _BINARY:
            yield _Change(node, "op", _BINARY[type(node.op)]())
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARED:
            yield _Change(node, "ops", [_COMPARED[type(node.ops[0])](), *node.ops[1:]])
        elif isinstance(node, ast.BoolOp):
            yield _Change(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield _Change(node, "value", not node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield _Change(node, "value", node.value + 1)
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            yield _Change(node, "test", ast.UnaryOp(ast.Not(), node.test))
        elif isinstance(node, ast.Return) and node.value is not None:
            yield _Change(node, "value", ast.Constant(None))


class _Change:
    """One change of a syntax tree, made when it is called."""

    def __init__(self, node: ast.AST, name: str, value: object) -> None:
        self.node, self.name, self.value = node, name, value

    def __call__(self) -> None:
        setattr(self.node, self.name, self.value)


_SQL = (
    (r"\bASC\b", "DESC"), (r"\bDESC\b", "ASC"), (r"\bmin\s*\(", "max("), (r"\bmax\s*\(", "min("),
    (r"\bcount\s*\(\s*\*\s*\)", "count(*) + 1"), (r"\bsum\s*\(", "avg("), (r"\bavg\s*\(", "sum("),
    (r"\bAND\b", "OR"), (r"(?<![<>!=])=(?!=)", "!="), (r"<(?![=>])", ">="), (r">(?!=)", "<="),
    (r"\bDISTINCT\b", ""), (r"\bLIMIT\s+\d+", ""), (r"\bWHERE\b", "WHERE NOT"),
)  # fmt: skip


def query_mutants(query: str) -> list[str]:
    """A query with one word of it changed, each time, and one that finds nothing at all."""
    found = [re.sub(sign, other, query, count=1, flags=re.IGNORECASE) for sign, other in _SQL]
    return [*dict.fromkeys(text for text in found if text != query), "SELECT NULL"]
