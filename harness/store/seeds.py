"""Where a train.py's randomness begins: from `run.seed`, or from a seed of its own.

It catches what agents write without a thought, wherever the number stands. Who hides it gets past, and
repeats with other seeds show it.
"""

import ast
import builtins
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

SEEDERS = (
    "manual_seed", "manual_seed_all", "seed", "seed_everything", "set_seed", "default_rng", "RandomState",
    "Random", "PRNGKey",
)  # fmt: skip

LATELY = 16  # programs that are remembered: a parent is compared with each of its children
# What draws: of numpy, Python and torch, whose modules draw their first weights.
DRAWING = {
    "rand", "randn", "randint", "randperm", "normal", "normal_", "uniform", "uniform_", "random", "shuffle",
    "permutation", "choice", "default_rng", "Module", "Linear", "Embedding", "Dropout", "dropout",
    "multinomial",
}  # fmt: skip


@lru_cache(LATELY)
def own(source: bytes) -> tuple[int, ...]:
    """Lines where it begins from a number that stands in it, or where something's `seed` is one."""
    nodes = _nodes(source)
    bound = _bound(nodes)
    lines = [c.lineno for c, given in _calls(nodes) if not any(_is_given(each, bound) for each in given)]
    for node in nodes:
        if isinstance(node, ast.Assign) and any(getattr(to, "attr", "") == "seed" for to in node.targets):
            lines += [] if _is_given(node.value, bound) else [node.lineno]
        elif isinstance(node, ast.keyword) and node.arg == "seed" and isinstance(node.value, ast.Constant):
            lines.append(node.value.lineno)
        elif isinstance(node, ast.ClassDef):
            fields = (part for part in node.body if isinstance(part, (ast.Assign, ast.AnnAssign)))
            lines += [part.lineno for part in fields if _is_a_seed(part)]
    return tuple(sorted(set(lines)))


def _is_a_seed(field: ast.Assign | ast.AnnAssign) -> bool:
    targets = field.targets if isinstance(field, ast.Assign) else [field.target]
    return isinstance(field.value, ast.Constant) and any(getattr(to, "id", "") == "seed" for to in targets)


@lru_cache(LATELY)
def is_from_run(source: bytes) -> bool:
    """Whether it asks for a run's seed anywhere."""
    return any(
        (isinstance(node, ast.Attribute) and node.attr == "seed" and isinstance(node.ctx, ast.Load))
        or (isinstance(node, ast.Constant) and node.value == "seed")
        for node in _nodes(source)
    )


@lru_cache(LATELY)
def draws(source: bytes) -> bool:
    """Whether anything in it is random."""
    named = (getattr(node, "attr", getattr(node, "id", "")) for node in _nodes(source))
    return not DRAWING.isdisjoint(named)


@lru_cache(LATELY)
def _nodes(source: bytes) -> tuple[ast.AST, ...]:
    """Of its syntax tree, none where it is no program."""
    try:
        return tuple(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()


def _calls(nodes: Sequence[ast.AST]) -> Iterator[tuple[ast.Call, list[ast.expr]]]:
    """Those that set or make a generator, with what they are given."""
    for node in nodes:
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            if called in SEEDERS and given:
                yield node, given


def _bound(nodes: Sequence[ast.AST]) -> dict[str, list[ast.expr]]:
    """What each name is said to be, where that is all that is said of it."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
            targets = [node.target]
        value = getattr(node, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and value is not None:
                found.setdefault(target.id, []).append(value)
            elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                for part, its in zip(target.elts, value.elts, strict=False):
                    if isinstance(part, ast.Name):
                        found.setdefault(part.id, []).append(its)
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):  # no module is a seed, nor is `int`
            found |= {(alias.asname or alias.name).partition(".")[0]: [] for alias in node.names}
    names = (n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    stored = Counter(name.id for name in names)
    given = {n.arg for n in nodes if isinstance(n, ast.arg)}  # by callers
    return {
        name: values for name, values in found.items() if name not in given and stored[name] == len(values)
    }


def _is_given(node: ast.expr, bound: dict[str, list[ast.expr]], behind: frozenset[str] = frozenset()) -> bool:
    """Whether anything is in it that isn't a number which stands in the file."""
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and "seed" in each.attr.lower():
            return True
        if isinstance(each, ast.Constant) and each.value == "seed":  # getattr(run, "seed")
            return True
        if isinstance(each, ast.Call) and not DRAWING.isdisjoint({getattr(each.func, "attr", "")}):
            return True  # drawn from what was seeded before
        if isinstance(each, ast.Name) and each.id not in behind and isinstance(each.ctx, ast.Load):
            values = bound.get(each.id, [] if hasattr(builtins, each.id) else None)
            if values is None or any(_is_given(value, bound, behind | {each.id}) for value in values):
                return True
    return False
