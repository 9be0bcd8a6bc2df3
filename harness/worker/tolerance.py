"""What honest arithmetic may differ by where the same is asked twice; beyond it a score is refused."""

from dataclasses import dataclass

from harness.store.records import INVALID, Audit, Failure, Kind


@dataclass(frozen=True)
class Tolerance:
    """See `Audit` for the three figures, in units of a loss."""

    advantage_nats: float
    spread_nats: float
    worst_nats: float


# Same kernels, same shapes, another place in the batch. On a GPU another process may be given other
# kernels for bf16 products, which moves single losses by hundredths.
TOLERANCES = {
    "cpu": Tolerance(0.0005, 0.001, 0.05),
    "mps": Tolerance(0.001, 0.01, 0.5),
    "cuda": Tolerance(0.001, 0.01, 0.5),
}


def improved(better_nats: float, device_kind: str) -> Failure | None:
    """None unless answers got better while the server ran: it went on learning, from whatever."""
    if better_nats <= TOLERANCES[device_kind].advantage_nats:
        return None
    return Failure(
        INVALID,
        f"asked again in the end, the first rows cost {better_nats:.2g} nats a token less: the model learns "
        "from other rows, goes on training, or answers by chance",
        Kind.AUDIT,
    )


def judge(audit: Audit, device_kind: str, must_not_see: str = "what it must not see") -> Failure | None:
    """None if honest arithmetic explains the differences; else it depends on what it `must_not_see`."""
    allowed = TOLERANCES[device_kind]
    within = (
        audit.advantage_nats <= allowed.advantage_nats
        and audit.spread_nats <= allowed.spread_nats
        and audit.worst_nats <= allowed.worst_nats
    )
    if within:  # written so that a NaN fails
        return None
    return Failure(
        INVALID,
        f"the audit got other answers: the model depends on {must_not_see}, or on chance "
        f"(mean {audit.spread_nats:.2g}, worst {audit.worst_nats:.2g})",
        Kind.AUDIT,
    )
