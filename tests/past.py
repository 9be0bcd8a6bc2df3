"""A repository as a loop leaves it after thousands of experiments, by `git fast-import`."""

import hashlib
import json
import random
import subprocess
from dataclasses import asdict
from statistics import NormalDist

from conftest import HONEST

from harness.store.aliases import VAL_BPB
from harness.store.decisions import Decision, Incumbent
from harness.store.history import BLOB_DIGITS
from harness.store.message import BLOB, Message, measured, verdict
from harness.store.records import CRASH, DISCARD, INVALID, KEEP, OK, Point, Reported, RunRecord, Training

WHO = "A Person <person@example.org>"
GPU, OTHER = "NVIDIA H200", "NVIDIA A100"
CURVE = tuple(Point(0.3 * step, step, 3 + 6 / (1 + step)) for step in range(0, 1000, 2))
BARE = "Status", "Incumbent", "Peak-Vram-Mb", "Val-Bpb", "Val-Bpb-Runs", "Delta", "Program", "Agent"
TRAINED = Training(
    OK, "", 20.0, 300.0, 0.5, CURVE, Reported(1000, 499_600_000, 50_300_000, None, 2048.0), "a line\n" * 50
)


class Past:
    """What fast-import is told. Objects are named here too, since messages and notes name earlier ones."""

    def __init__(self):
        self.parts, self.marks, self.at = [], {}, 1_750_000_000

    def commit(self, ref, parent, message, source):
        self.at += 360
        by = f"author a/b <a@b.invalid> {self.at} +0000\ncommitter {WHO} {self.at} +0000\n"
        tree = named("tree", b"100644 train.py\0" + bytes.fromhex(named("blob", source)))
        above, start = (f"parent {parent}\n", f"from {self.marks[parent]}\n") if parent else ("", "")
        commit = named("commit", f"tree {tree}\n{above}{by}\n{message}".encode())
        self.marks[commit] = f":{len(self.marks) + 1}"
        self.parts += [f"commit {ref}\nmark {self.marks[commit]}\n{by}".encode(), data(message.encode())]
        self.parts += [start.encode(), b"M 100644 inline train.py\n", data(source)]
        return commit

    def notes(self, records):
        self.parts += [
            f"commit refs/notes/autoresearch\ncommitter {WHO} {self.at} +0000\n".encode(),
            data(b""),
        ]
        for commit, record in records.items():
            path = f"{commit[:2]}/{commit[2:]}"
            self.parts += [f"M 100644 inline {path}\n".encode(), data(json.dumps(record).encode())]


def fill(folder, count, seed=0, bare=False):
    """`count` experiments; returns their status, score and title by number. Only what was kept has notes: of
    the others' no command reads more than a few.

    Args:
        bare: without notes, and with messages that name no setting: the gate has nothing to say of them.
    """
    past, chooser, notes, made = Past(), random.Random(seed), {}, {}
    believed, head = 2.0, past.commit("refs/heads/main", "", "baseline", HONEST.encode())
    main, notes[head] = head, {"trials": [asdict(trial(1, OK, believed))]}
    for number in range(1, count + 1):
        delta, device = chooser.gauss(0.007, 0.006), OTHER if number % 500 == 250 else GPU
        better = delta < -0.003 and device == GPU
        status = KEEP if better else chooser.choice([DISCARD] * 8 + [CRASH, INVALID])
        incumbent, score, effect = Incumbent(head, believed), believed + delta, 0.3 * delta
        runs, decision = [trial(number, status, None, device)], Decision(status, "it ended early", incumbent)
        if status in (KEEP, DISCARD):
            scores = [score - 0.004, score, score + 0.004] if number % 7 == 0 else [score]
            runs = [trial(number + run, OK, each, device) for run, each in enumerate(scores)]
            odds = NormalDist(effect, 0.003).cdf(0)
            decision = Decision(status, "so it is", incumbent, score, delta, effect, 0.003, odds, 0.004)
        title, source = f"Change MATRIX_LR, try {number}", f"{HONEST}# {number}".encode()
        trailers = {
            "Program": f"{number:012x}",
            BLOB: named("blob", source)[:BLOB_DIGITS],
            "Agent": "search/tpe",
        }
        trailers |= measured(runs[-1], runs, decision)
        if bare:
            trailers = {name: value for name, value in trailers.items() if name in BARE}
        text = Message(f"{title} ({verdict(decision, VAL_BPB)})", "it may help", trailers).text()
        commit = past.commit(f"refs/heads/exp/{number:04d}-change-matrix-lr", head, text, source)
        if status == KEEP:
            believed, head = believed + effect, commit
            notes[head] = {"trials": [asdict(run) for run in runs], "decision": asdict(decision)}
            if bare or len(notes) % 3 == 0:  # then their stack is proven better
                main = head
                notes[head]["reached"] = True
        made[number] = (status, score, title)
    past.parts.append(f"reset refs/heads/main\nfrom {past.marks[main]}\n".encode())
    past.notes({} if bare else notes)
    subprocess.run(["git", "init", "-q", "-b", "main", folder], check=True)
    subprocess.run(["git", "fast-import", "--quiet"], cwd=folder, input=b"".join(past.parts), check=True)
    subprocess.run(["git", "checkout", "-q", "main"], cwd=folder, check=True)
    subprocess.run(["git", "pack-refs", "--all"], cwd=folder, check=True)  # as the loop's `git gc` does
    (folder / ".autoresearch").mkdir()
    (folder / ".autoresearch" / "config.toml").write_text('profile = "gpu"\n')
    return made


def data(content):
    return b"data %d\n%b\n" % (len(content), content)


def named(kind, content):
    """What git calls an object."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


def trial(seed, status, score, device=GPU):
    return RunRecord(
        "", seed, status, "", score, TRAINED, None, 400.0, device, None, "climbmix@3f9c2d1", "8a77e10",
        "bwrap", 300.0,
    )  # fmt: skip
