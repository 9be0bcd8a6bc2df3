"""Where a train.py's randomness begins: from `run.seed`, or from a seed of its own.

It catches what agents write without a thought, wherever the number stands. Who hides it gets past, and
repeats with other seeds show it.
"""

import ast
from collections.abc import Iterator

SEEDERS = (
    "manual_seed", "manual_seed_all", "seed", "seed_everything", "set_seed", "default_rng", "RandomState",
    "Random", "PRNGKey",
)  # fmt: skip

# What draws: of numpy, Python and torch, whose modules draw their first weights.
DRAWING = {
    "rand", "randn", "randint", "randperm", "normal", "normal_", "uniform", "uniform_", "random", "shuffle",
    "permutation", "choice", "default_rng", "Module", "Linear", "Embedding", "Dropout", "dropout",
    "multinomial",
}  # fmt: skip


def own(source: bytes) -> list[int]:
    """Lines where it begins from what no run's seed is in, or where a `.seed` is assigned."""
    tree = _parsed(source)
    bound = _bound(tree)
    lines = [call.lineno for call, given in _calls(tree) if not any(_is_given(each, bound) for each in given)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(getattr(to, "attr", "") == "seed" for to in node.targets):
            lines.append(node.lineno)
    return sorted(lines)


def is_from_run(source: bytes) -> bool:
    """Whether anything begins from a run's seed."""
    tree = _parsed(source)
    bound = _bound(tree)
    return any(any(_is_given(each, bound) for each in given) for _, given in _calls(tree))


def draws(source: bytes) -> bool:
    """Whether anything in it is random."""
    named = (getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(_parsed(source)))
    return not DRAWING.isdisjoint(named)


def _parsed(source: bytes) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, list[ast.expr]]]:
    """Those that set or make a generator, with what they are given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            if called in SEEDERS and given:
                yield node, given


def _bound(tree: ast.Module) -> dict[str, list[ast.expr]]:
    """What each name stands for somewhere in it; parameters, which callers give, aren't among them."""
    parameters = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
            targets = [node.target]
        value = getattr(node, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and target.id not in parameters and value is not None:
                found.setdefault(target.id, []).append(value)
    return found


def _is_given(node: ast.expr, bound: dict[str, list[ast.expr]], behind: frozenset[str] = frozenset()) -> bool:
    """Whether a run's seed is in it, or what nothing in the file says."""
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and each.attr == "seed":
            return True
        if isinstance(each, ast.Name) and each.id not in behind and isinstance(each.ctx, ast.Load):
            values = bound.get(each.id)
            if values is None and "seed" in each.id.lower():
                return True
            if values and any(_is_given(value, bound, behind | {each.id}) for value in values):
                return True
    return False
