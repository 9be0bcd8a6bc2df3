"""A score of many questions in turn, see `harness.tasks.items.game`: its owner asks, through a server."""

import time
from collections.abc import Callable

import numpy as np

from harness.tasks.items.game import GameExam
from harness.worker.answers import Answers
from harness.worker.model_client import Server

PROGRESS_SECONDS = 0.25


def play(server: Server, exam: GameExam, batch: int, seconds: float, tell: Callable[[int], None]) -> Answers:
    """
    Args:
        batch: questions that the server is asked at once.
        tell: how many were asked so far.
    """
    deadline = time.monotonic() + seconds
    server.clock.stop()  # what it did until here is no answer
    spent, waited, told, asked = list[float](), list[float](), 0.0, 0

    def ask(inputs: np.ndarray) -> tuple[np.ndarray, float]:
        nonlocal told, asked
        found, took = [], 0.0
        for at in range(0, len(inputs), batch):
            part = inputs[at : at + batch]
            whole = np.concatenate([part, np.repeat(part[:1], batch - len(part), axis=0)])
            if exam.is_timed and asked:
                server.resume()
            before, exact, began = server.clock.now(), server.clock.exact(), time.monotonic()
            server.ask(whole)
            replies = server.replies(deadline)
            given = replies if isinstance(replies, np.ndarray) else replies.double().cpu().numpy()
            found.append(given[: len(part)].astype(np.float64))  # first: what is written later comes too late
            waited.append(time.monotonic() - began)
            if exam.is_timed:  # of one that still runs, the kernel tells a time of some milliseconds ago
                server.pause()
            took += server.clock.exact() - exact
            spent.append(server.clock.now() - before)
            asked += len(part)
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            tell(asked)
        return np.concatenate(found), took

    losses = exam.play(ask)
    if exam.is_timed and asked:
        server.resume()
    figures = np.empty((len(losses), 0))
    first = waited[0] if waited else 0.0
    return Answers(losses, figures, sum(waited), first, tuple(spent or [0.0]))
