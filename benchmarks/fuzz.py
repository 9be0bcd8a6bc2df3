"""What is read of models, of git and of other machines, fed by a fuzzer that looks for new paths in the code.

    pip install atheris
    python benchmarks/fuzz.py answers --minutes 60
    for each in answers messages notes records; do python benchmarks/fuzz.py $each --minutes 15; done

Anything but the error that is meant, or an input that takes over ten seconds, ends it: the input lies in the
folder that is named then. At its end it says how many inputs were tried.
"""

import argparse
import sys
import tempfile
import tomllib
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("fuzz.py: atheris is not installed. Try: pip install atheris")

with atheris.instrument_imports(include=["harness.agents", "harness.store"]):
    from harness.agents import NoProposal, answer
    from harness.store import message, note
    from harness.store.decisions import Decision, Incumbent
    from harness.store.records import KEEP, OK, Point, Reported, RunRecord, Training

ANSWERS = Path(__file__).parent.parent / "tests" / "answers"
SOURCE = (ANSWERS / "train.py").read_text()
MESSAGE = """Change LR 0.03 to 0.04 (val_bpb 2.0943, -0.0094)

Hypothesis: it is too low.

Status: keep
Val-Bpb: 2.0943
Incumbent: abcdef0 2.1037
Seeds: 1 2
Budget-Seconds: 20
"""


def answers(data: bytes) -> None:
    try:
        found = answer.read(data.decode("utf-8", "replace"), SOURCE)
    except NoProposal as none:
        assert "\n" not in str(none)
    else:
        assert found.title and found.hypothesis


def messages(data: bytes) -> None:
    found = message.parse(data.decode("utf-8", "replace"))
    assert "\n" not in found.subject
    again = message.parse(found.text())
    assert again.trailers == found.trailers or not found.trailers
    assert found.title is not None and found.value is not None


def notes(data: bytes) -> None:
    found = note.read_note(data)
    for each in found.runs:
        assert isinstance(each.setting.device, str)
    _ = found.decision, found.proven, found.gist, found.opinion, found.holdouts, found.runs


def records(data: bytes) -> None:
    if (run := note.read_run(data)) is not None:
        assert note.read_run(note.write_run(run)) is not None
        _ = run.setting, run.warning, run.mismatch, run.delay


def seeds(target: str) -> list[bytes]:
    if target == "answers":
        return [tomllib.loads(path.read_text())["answer"].encode() for path in ANSWERS.glob("*.toml")]
    if target == "messages":
        return [MESSAGE.encode()]
    training = Training(OK, "", 20.0, 300.0, 0.5, (Point(1.0, 1, 3.0),), Reported(1000, 499_600_000))
    run = RunRecord(
        "a" * 40, 1, OK, "", 2.0, training, None, 400.0, "NVIDIA H200", None, "climbmix@3f9c2d1", "1",
        "bwrap", 300.0,
    )  # fmt: skip
    made = (
        note.Note().with_run(run).with_parts(Decision(KEEP, "so it is", Incumbent("b" * 40, 2.1), 2.0, -0.1))
    )
    return [note.write_run(run) if target == "records" else note.write_note(made)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    targets = {"answers": answers, "messages": messages, "notes": notes, "records": records}
    parser.add_argument("target", choices=targets)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    corpus = Path(tempfile.mkdtemp(prefix=f"fuzz-{options.target}-"))
    for number, seed in enumerate(seeds(options.target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-artifact_prefix={corpus}/found-",
        "-timeout=10",
        "-max_len=20000",
    ]
    arguments += [f"-max_total_time={60 * options.minutes:.0f}", "-print_final_stats=1", "-verbosity=0"]
    print(f"fuzz.py: {options.target}, what is found lies in {corpus}", flush=True)
    atheris.Setup(arguments, targets[options.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
