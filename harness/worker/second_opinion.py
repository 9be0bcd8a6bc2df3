"""A second opinion on a score, before it counts for `main`: slow, plain, without the code of the first.

Rows drawn anew are asked of a fresh model server, one at a time. Their losses are taken in float64 by
PyTorch's own function, and compared row by row with what was scored: an error of the fast path, or of its
kernel, shows. It runs in a process of its own, which reads a request as JSON and prints what it found.
"""

import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from harness.sandbox import limits
from harness.sandbox.holdings import Touched
from harness.sandbox.text import one_line
from harness.store.decisions import Opinion
from harness.store.records import ERROR, INVALID, Failure
from harness.tasks.contract import Ungraded
from harness.tasks.registry import exam_for
from harness.worker.model_client import Server
from harness.worker.overtime import in_time
from harness.worker.tolerance import TOLERANCES

ROWS = 2000
MORE_SECONDS = 240.0  # to start


def ask(request: dict[str, Any], row_nats: Path) -> Opinion | Failure:
    """Of a checkpoint that was scored; `invalid` where they differ by more than chance and arithmetic.

    Args:
        request: of the scorer, see `harness.worker.scoring`.
        row_nats: what each row cost when it was scored, (R,) float64.
    """
    caps = MORE_SECONDS + request["load_seconds"] + request["scoring_seconds"]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "harness.worker.second_opinion"],
            input=json.dumps({**request, "row_nats": str(row_nats)}), capture_output=True, text=True,
            timeout=caps, env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
        )  # fmt: skip
        found = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as failed:
        return Failure(ERROR, f"no second opinion: {one_line(failed)}")
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Failure(ERROR, f"no second opinion: {one_line(last)}")
    if "failure" in found:
        return Failure(**found["failure"])
    opinion = Opinion(**found["opinion"], seconds=time.monotonic() - began)
    return differs(opinion, found["allowed"]) or opinion


def differs(opinion: Opinion, allowed: float) -> Failure | None:
    """None unless the rows differ by more than is `allowed`, what other kernels explain. Each row is compared
    with itself, so chance has no part in it: differences that cancel out are differences too."""
    if opinion.spread <= allowed:  # so that a NaN fails
        return None
    return Failure(
        INVALID,
        f"{opinion.rows} rows asked again, plainly: {opinion.difference:+.5f} from the score, "
        f"{opinion.spread:.5f} row by row; {allowed:.5f} would do",
    )


def _form(request: dict[str, Any]) -> tuple[dict[str, float], float]:
    """The figures of an `Opinion`, and what their spread may be."""
    exam, scored = exam_for(request), np.load(request["row_nats"])  # (N,)
    generator = np.random.default_rng(secrets.randbits(64))
    drawn = generator.choice(len(scored), size=min(ROWS, len(scored)), replace=False)
    server, kind = Server(request, exam, 1), request["device"]["kind"]
    try:
        server.warm()
        server.begin_load()
        server.take_seal()
        server.end_load()
        server.begin_warm_up(exam.noise(1))
        server.end_warm_up(Touched())
        server.clock.stop()
        checkpoint = Path(request["checkpoint"])
        if failure := in_time(server.clock.worked_seconds, request["budget_seconds"], checkpoint, kind):
            raise Ungraded(failure)
        deadline = time.monotonic() + request["scoring_seconds"]
        apart = []
        for item in drawn:
            server.ask(exam.inputs[item][None])
            apart.append(exam.plain_sum(server.replies(deadline)[0], item) - scored[item])
    finally:
        server.close()
    values = exam.in_value(np.array(apart), drawn)
    spread = float(np.abs(values).mean())
    figures = {"rows": len(values), "difference": float(values.mean()), "spread": spread}
    return figures, exam.as_value(TOLERANCES[kind].advantage_nats * exam.unit(scored))


def main() -> None:
    limits.die_with_parent()
    try:
        opinion, allowed = _form(json.loads(sys.stdin.read()))
        found: dict[str, Any] = {"opinion": opinion, "allowed": allowed}
    except Ungraded as refused:
        found = {"failure": asdict(refused.failure)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
