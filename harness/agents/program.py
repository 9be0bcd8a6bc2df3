"""train.py as a program: its digest, so that nothing is trained twice, and its constants.

The digest is of the syntax tree without docstrings, with constant expressions folded and local names
numbered in the order they appear: comments, formatting and renamed locals make no new program. Neither do
annotations, a second name for something, or constants that nobody uses or that stand in another order.
"""

import ast
import builtins
import hashlib
import operator
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

FOLDED = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow,
}  # fmt: skip
LARGEST = 1e12
LATELY = 64  # programs that are remembered: a parent is compared with each of its children
# What sees names that nothing else in a program does.
LOOKING_IN = {
    "globals", "locals", "vars", "dir", "exec", "eval", "sys.modules", "__main__", "__dict__",
    "__annotations__", "__doc__",
}  # fmt: skip
BINDING = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar
)  # fmt: skip
IMPORTING = (ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Constant:
    """A number or flag at module level, in capitals: `NAME = 3` or one place of `NAME = (0.8, 0.95)`."""

    name: str
    """`WIDTH`, or `ADAM_BETAS[1]`."""
    value: int | float | bool
    line: int
    start: int
    """Columns of the literal in its line, as bytes."""
    end: int


@lru_cache(LATELY)
def digest(source: bytes) -> str:
    """12 hex digits that programs share if they differ in nothing that could train differently.

    Raises:
        SyntaxError: it is no program.
    """
    return _hashed(shown(_Normal().visit(_settled(ast.parse(source)))))


@lru_cache(LATELY)
def former_digests(source: bytes) -> tuple[str, ...]:
    """The same of releases 0.1.0, whose digests depend on Python's minor version, and 0.2.0."""
    tree = _normal(source)
    return _hashed(ast.dump(tree)), _hashed(shown(tree))


@lru_cache(2)
def _normal(source: bytes) -> ast.AST:
    """Its syntax tree, which nobody changes."""
    return _Normal().visit(ast.parse(source))


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def shown(node: Any) -> str:
    """A syntax tree as text that is the same in every version of Python: without what is empty."""
    if isinstance(node, ast.AST):
        fields = ((name, part) for name, part in ast.iter_fields(node) if name != "kind")
        inside = (f"{name}={shown(part)}" for name, part in fields if part is not None and part != [])
        return f"{type(node).__name__}({', '.join(inside)})"
    if isinstance(node, list):
        return f"[{', '.join(map(shown, node))}]"
    return repr(node)


@lru_cache(LATELY)
def lines(source: bytes) -> int:
    """How long a program is: in lines of one statement each, whatever its comments and formatting.

    Raises:
        SyntaxError: it is no program.
    """
    return len(ast.unparse(_normal(source)).splitlines())


def _settled(tree: ast.Module) -> ast.Module:
    """Without annotations of variables, aliases and unused constants; constants first, by name."""
    nodes = list(ast.walk(tree))
    named = {getattr(n, "attr", getattr(n, "id", "")) for n in nodes}
    named |= {ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute) and n.attr == "modules"}
    named |= {a.name for n in nodes if isinstance(n, IMPORTING) for a in n.names}
    if named & {*LOOKING_IN, "*"}:
        return tree  # it may look up any name, or have others
    tree = _Plain().visit(tree)
    nodes = list(ast.walk(tree))
    stored = [n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)]
    stored += [name for n in nodes if isinstance(n, (ast.Global, ast.Nonlocal)) for name in n.names]
    stored += [n.arg for n in nodes if isinstance(n, ast.arg)]
    stored += [n.name for n in nodes if isinstance(n, BINDING) and n.name]
    stored += [
        (a.asname or a.name).partition(".")[0] for n in nodes if isinstance(n, IMPORTING) for a in n.names
    ]
    once = {name for name, count in Counter(stored).items() if count == 1 and not hasattr(builtins, name)}
    names = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
        if node.targets[0].id in once
    }
    same = {
        name: value.id
        for name, value in names.items()
        if isinstance(value, ast.Name) and _is_literal(names.get(value.id, value))
    }
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            node.id = same.get(node.id, node.id)
    used = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    literals: list[tuple[str, ast.stmt]] = []
    rest: list[ast.stmt] = []
    for node in tree.body:
        name = (
            node.targets[0].id
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            else ""
        )
        if name in same or (name in names and _is_literal(names[name]) and name not in used):
            continue
        is_constant = name in names and _is_literal(names[name])
        if is_constant:
            literals.append((name, node))
        else:
            rest.append(node)
    tree.body = [node for _, node in sorted(literals, key=lambda pair: pair[0])] + rest
    return tree


def _is_literal(node: ast.expr) -> bool:
    """Numbers, flags, text and tuples of them, also as sums of some."""
    kinds = (
        ast.Constant, ast.Tuple, ast.List, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context
    )  # fmt: skip
    return all(isinstance(each, kinds) for each in ast.walk(node))


class _Plain(ast.NodeTransformer):
    """Assignments without their annotation; those of a class are its fields."""

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        for part in node.body:
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self.visit(part)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None or not isinstance(node.target, ast.Name):
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)


class _Normal(ast.NodeTransformer):
    """Docstrings out, constants folded, locals of functions numbered."""

    _inside = False

    def _without_docstring(self, node: Any) -> Any:
        body = node.body
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]
        return self.generic_visit(node)

    visit_Module = visit_ClassDef = _without_docstring

    def visit_FunctionDef(self, node: Any) -> Any:
        if self._inside:  # its names were numbered with those of the function around it
            return self._without_docstring(node)
        nodes = list(ast.walk(node))
        kept = {name for n in nodes if isinstance(n, (ast.Global, ast.Nonlocal)) for name in n.names}
        kept |= {n.arg for n in nodes if isinstance(n, ast.arg)}  # callers can name them
        named = [n for n in nodes if isinstance(n, ast.Name) and n.id not in kept]
        numbers: dict[str, str] = {}
        for name in named:
            if isinstance(name.ctx, ast.Store):
                numbers.setdefault(name.id, f"<{len(numbers)}>")  # as nothing else is called
        for name in named:
            name.id = numbers.get(name.id, name.id)
        self._inside = True
        try:
            return self._without_docstring(node)
        finally:
            self._inside = False

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        self.generic_visit(node)
        left, right, how = _number(node.left), _number(node.right), FOLDED.get(type(node.op))
        if how is None or left is None or right is None:
            return node
        if max(abs(left), abs(right)) > LARGEST or (type(node.op) is ast.Pow and abs(right) > 64):
            return node
        try:
            value = how(left, right)
        except ArithmeticError:
            return node
        return ast.copy_location(ast.Constant(value), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        self.generic_visit(node)
        value = _number(node.operand)
        if isinstance(node.op, ast.USub) and value is not None:
            return ast.copy_location(ast.Constant(-value), node)
        return node


def _number(node: ast.expr) -> int | float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return None if isinstance(node.value, bool) else node.value
    return None


def constants(source: bytes, on_gpu: bool) -> list[Constant]:
    """The upper-case numbers and flags at module level, of the branch that this device takes.

    An `if` whose test names the GPU (or CUDA) has one branch for it and one for other devices.
    """
    found: list[Constant] = []
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    for node in body:
        if isinstance(node, ast.If) and any(
            isinstance(n, ast.Name) and ("GPU" in n.id.upper() or "CUDA" in n.id.upper())
            for n in ast.walk(node.test)
        ):
            for inner in node.body if on_gpu else node.orelse:
                found += _assigned(inner)
        else:
            found += _assigned(node)
    return found


LARGEST = 1e12  # beyond it, and for no number, a literal is no constant to search


def _assigned(node: ast.stmt) -> list[Constant]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target, value = node.targets[0], node.value
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        target, value = node.target, node.value
    else:
        return []
    if not isinstance(target, ast.Name) or not target.id.isupper():
        return []
    if isinstance(value, (ast.Tuple, ast.List)):
        pairs = [(f"{target.id}[{i}]", item) for i, item in enumerate(value.elts)]
    else:
        pairs = [(target.id, value)]
    return [
        Constant(name, item.value, item.lineno, item.col_offset, item.end_col_offset or item.col_offset)
        for name, item in pairs
        if isinstance(item, ast.Constant)
        and isinstance(item.value, (int, float, bool))
        and abs(item.value) < LARGEST
        and item.lineno == item.end_lineno
    ]


def is_shorter(new: bytes, old: bytes) -> bool:
    """Whether it has fewer lines; not where one can't be read."""
    try:
        return lines(new) < lines(old)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def with_values(source: bytes, changed: dict[Constant, int | float | bool]) -> bytes:
    """The program with other literals in place of some constants; nothing else moves."""
    lines = source.splitlines(keepends=True)
    for constant, value in sorted(changed.items(), key=lambda item: (item[0].line, -item[0].start)):
        line = lines[constant.line - 1]
        lines[constant.line - 1] = line[: constant.start] + repr(value).encode() + line[constant.end :]
    return b"".join(lines)
