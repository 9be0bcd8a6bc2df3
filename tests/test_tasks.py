"""Tasks of items: cheats gain nothing in any of them, and what is wrong with data is said before a run."""

import dataclasses
import gzip
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import CAPS, ROOT, assert_mistake, edit, harness, setup_of

from harness import config as configs
from harness.agents import catalogue
from harness.errors import HarnessError
from harness.store.records import CRASH, INVALID, OK, Failure, Score
from harness.store.rules import broken_source
from harness.tasks import registry
from harness.tasks.images import sources
from harness.tasks.items import check, store
from harness.tasks.items.measures import LOG_LOSS, BadReply
from harness.worker import scoring


def images(folder: Path) -> str:
    """Three classes of small pictures, told apart by where they are bright."""
    generator = np.random.default_rng(0)
    classes = np.arange(900) % 3
    pictures = generator.integers(0, 120, (900, 6, 6, 1))
    pictures[np.arange(900), 2 * classes] += 100
    np.savez(folder / "pictures.npz", x=pictures.astype(np.uint8), y=classes)
    return str(folder / "pictures.npz")


def table(folder: Path) -> str:
    generator = np.random.default_rng(0)
    x, kind = generator.standard_normal((1200, 3)), generator.choice(["red", "green", "blue"], 1200)
    y = x @ [1.0, -2.0, 0.5] + (kind == "red") + 0.3 * generator.standard_normal(1200)
    lines = ["a,b,c,kind,price"]
    lines += [
        f"{row[0]:.4f},{row[1]:.4f},{row[2]:.4f},{k},{t:.4f}" for row, k, t in zip(x, kind, y, strict=True)
    ]
    (folder / "table.csv").write_text("\n".join(lines))
    return str(folder / "table.csv")


SOURCES = {"images": images, "tabular": table, "toy": lambda folder: "line"}


def config_of(task: str, source: str, **data) -> configs.Config:
    base = configs.defaults("cpu", task)
    caps = {**CAPS, "budget_seconds": 0.3}
    return dataclasses.replace(
        base, data=dataclasses.replace(base.items, source=source, **{"eval_items": 300, **data}),
        trial=dataclasses.replace(base.trial, **caps),
    )  # fmt: skip


@pytest.fixture(scope="module", params=SOURCES)
def task_setup(request, tmp_path_factory):
    """Pictures are asked for by torch, the others by numpy."""
    made = setup_of(config_of(request.param, SOURCES[request.param](tmp_path_factory.mktemp("data"))))
    library = "torch" if request.param == "images" else "numpy"
    return dataclasses.replace(made, task=dataclasses.replace(made.task, library=library))


# What it answers is honest, if not good: from a checkpoint that holds a constant for each reply.
MODEL = """
import numpy, os
STATE = {"asked": 0, "seen": {}}

def honest(inputs):
    flat = numpy.asarray(inputs, numpy.float64).reshape(len(inputs), -1)
    return (0.3 * flat[:, :1] * (1 + numpy.arange(SIZE))).reshape(len(inputs), *SHAPE).astype(numpy.float32)

def answer(inputs):
    return honest(inputs)

def load(checkpoint_dir, device):
    if LIBRARY == "numpy":
        return lambda inputs: answer(inputs)
    import torch
    turned = lambda found: torch.from_numpy(found) if isinstance(found, numpy.ndarray) else found
    return lambda inputs: turned(answer(inputs.numpy()))
"""


@pytest.fixture
def scored(task_setup, tmp_path):
    """`scored(answer)` -> Score or Failure of a model whose `answer` is that."""
    shape = tuple(task_setup.task.data.facts["facts"]["reply_shape"])
    head = f"SHAPE, SIZE, LIBRARY = {shape}, {int(np.prod(shape))}, {task_setup.task.library!r}\n"

    def run(answer: str = ""):
        script, checkpoint = tmp_path / "train.py", tmp_path / "checkpoint"
        script.write_text(
            head + (MODEL.replace("    return honest(inputs)\n", answer, 1) if answer else MODEL)
        )
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / "none").write_text("nothing")
        return scoring.score(
            script, checkpoint, task_setup.task, "val", task_setup.config, task_setup.device,
            task_setup.isolation, tmp_path / "server.txt", lambda *_: None,
        )  # fmt: skip

    return run


CHEATS = {
    "statistics of the batch": ("    x = honest(inputs)\n    return x - x.mean(0, keepdims=True)\n", ""),
    "neighbours": ("    x = honest(inputs)\n    x[1:] += x[:-1]\n    return x\n", ""),
    "learned while it is scored": (
        "    STATE['asked'] += len(inputs)\n    return honest(inputs) * (1 + STATE['asked'] / 500)\n", "",
    ),
    "remembers what it was asked": (
        "    x = honest(inputs)\n    for row in x: STATE['seen'][row.tobytes()] = len(STATE['seen'])\n"
        "    return x * numpy.float32(1 + 0.5 * (len(STATE['seen']) > 100))\n", "",
    ),
    "chance": ("    return honest(inputs) + numpy.random.rand(len(inputs), *SHAPE).astype('f')\n", "chance"),
    "another shape": ("    return honest(inputs)[:-1]\n", "not replies of"),
    "whole numbers": ("    return honest(inputs).astype(int)\n", "not of a floating-point type"),
    "nan": ("    return honest(inputs) * numpy.float32('nan')\n", "NaN"),
    "infinity": ("    return honest(inputs) + numpy.float32('inf')\n", "infinity"),
    "nothing": ("    return None\n", "not replies of"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_gets_no_score_and_one_clear_line(scored, name):
    answer, said = CHEATS[name]
    found = scored(answer)
    assert isinstance(found, Failure), (name, found)
    assert found.status in (INVALID, CRASH) and said in found.detail and "\n" not in found.detail, found


def test_an_honest_score_is_the_mean_of_what_replies_are_worth(scored, task_setup):
    found = scored()
    assert isinstance(found, Score), found
    inputs, targets = store.read(task_setup.task.data.files("val")["items"])
    shape = tuple(task_setup.task.data.facts["facts"]["reply_shape"])
    flat = np.asarray(inputs, np.float64).reshape(len(inputs), -1)
    replies = (0.3 * flat[:, :1] * (1 + np.arange(int(np.prod(shape))))).reshape(len(flat), *shape)
    task = registry.task_of(task_setup.config, Path("/"))
    worth = task.measure_of(task_setup.task.data.measure).of(
        replies.astype(np.float32).astype(float), targets
    )
    assert found.value == pytest.approx(worth.mean(), rel=1e-6) and found.items == len(inputs)
    assert found.standard_error == pytest.approx(worth.std() / len(worth) ** 0.5, rel=1e-6)


def test_a_constant_is_worth_what_it_is_and_huge_logits_no_more(scored, task_setup):
    found = scored("    return numpy.zeros((len(inputs), *SHAPE), 'f')\n")
    data, task = task_setup.task.data, registry.task_of(task_setup.config, Path("/"))
    assert isinstance(found, Score)
    _, targets = store.read(data.files("val")["items"])
    zeros = np.zeros((len(targets), *data.facts["facts"]["reply_shape"]))
    assert found.value == pytest.approx(task.measure_of(data.measure).of(zeros, targets).mean())
    huge = scored("    return honest(inputs) * numpy.float32(1e9)\n")
    assert isinstance(huge, Failure) or huge.value > found.value


def test_a_perfect_reply_is_worth_more_than_a_constant_and_the_task_passes_its_check(task_setup):
    task = registry.task_of(task_setup.config, Path("/"))
    for finding in check.looked_at(task, task_setup.task.data, task_setup.config.items):
        assert finding.is_right, finding


def test_labels_do_not_fit_into_a_change_of_train_py(task_setup):
    labels = np.random.default_rng(0).bytes(3 * task_setup.task.growth_bytes).hex()
    source = (ROOT / "examples" / "toy" / "train.py").read_bytes()
    grown = source + f"\nLABELS = {labels!r}\n".encode()
    assert "what was learned" in broken_source(grown, source, task_setup.task.growth_bytes)
    assert 1024 <= task_setup.task.growth_bytes <= 8192


LOOK = """
import os
found = [path for path in PATHS if os.path.isfile(path) or os.path.isdir(path) and os.listdir(path)]
for folder in ("/usr/share/datasets", "/usr/lib", "/usr/local"):
    for where, _, names in os.walk(folder):
        found += [f"{where}/{name}" for name in names if "fashion" in name or name == "breast_cancer.csv"]
print("FOUND", found)
"""


def test_neither_data_nor_what_they_came_from_is_in_sight(task_setup, tmp_path):
    from harness.worker.prestart import Prestarted
    from harness.worker.supervisor import Supervisor

    data = task_setup.task.data
    paths = [str(data.folder), str(data.folder.parent), task_setup.config.items.source]
    paths += map(str, task_setup.task.hidden)
    script = tmp_path / "train.py"
    script.write_text(f"PATHS = {paths!r}\n{LOOK}")
    (tmp_path / "checkpoint").mkdir()
    hidden = dataclasses.replace(task_setup.isolation, hide=tuple(task_setup.task.hidden))
    training = Supervisor(
        script, tmp_path / "checkpoint", task_setup.spec(1), data.train_file, task_setup.config.trial,
        Prestarted(task_setup.config.trial, hidden, task_setup.device), lambda _: None,
    ).train()  # fmt: skip
    seen = re.search(r"FOUND (.*)", training.log)
    assert seen is not None and eval(seen[1]) == [], training


def test_the_same_data_twice_are_split_alike_and_nothing_is_on_two_sides(task_setup):
    data = task_setup.task.data
    rows = {
        split: {row.tobytes() for row in np.ascontiguousarray(store.read(data.folder / f"{split}.items")[0])}
        for split in store.SPLITS
    }
    assert not rows["train"] & rows["val"] and not rows["val"] & rows["holdout"]
    again = registry.prepare(task_setup.config, Path("/"), lambda *_: None, again=True)
    assert again.data.id == data.id


# ── what is wrong with data ───────────────────────────────────────────────────────────────────


def prepared(task: str, source: str, **data):
    return registry.prepare(config_of(task, source, **data), Path("/"), lambda *_: None).data


def csv(folder: Path, *lines: str) -> str:
    (folder / "t.csv").write_text("\n".join(lines))
    return str(folder / "t.csv")


ROWS = [f"{n},{n % 7},{n % 2}" for n in range(100)]


def test_a_table_that_is_no_utf8_or_has_no_commas_is_named_with_what_mends_it(tmp_path):
    (tmp_path / "t.csv").write_bytes("größe,y\n1,2\n".encode("latin1"))
    with pytest.raises(HarnessError, match=r"is not UTF-8.*iconv"):
        prepared("tabular", str(tmp_path / "t.csv"))
    with pytest.raises(HarnessError, match="between commas"):
        prepared("tabular", csv(tmp_path, "a;b;y", "1;2;3"))


def test_every_example_has_what_init_copies():
    for folder in (ROOT / "examples").iterdir():
        assert (folder / "train.py").exists() and (folder / "program.md").exists(), folder


TABLES = {
    "no such column": ((["a,b,y", *ROWS], "price"), "no column 'price', only a, b, y"),
    "a target that is missing": ((["a,b,y", "1,2,", *ROWS], "y"), "in 1 rows, first in row 1"),
    "the same column twice": ((["a,b,y", *(f"{n},{n % 2},{n % 2}" for n in range(100))], "y"), "'b' says"),
    "a class with one example": (
        (["a,y", *(f"{n},{min(n, 1)}" for n in range(99))], "y"), "class '0' has 1 rows",
    ),
    "two columns of a name": ((["a,a,y", *("1,2,3",) * 99], "y"), "2 columns named 'a'"),
    "one class": ((["a,y", *(f"{n},1" for n in range(100))], "y"), "is always 1"),
    "few inputs": (
        (["a,y", *(f"{n % 6},{n // 7 % 2}" for n in range(300))], "y"), "only 6 have an input of their own",
    ),
    "twenty rows": ((["a,y", *(f"{n},{n % 2}" for n in range(20))], "y"), "there are 20 examples"),
    "nothing": ((["a,y"], "y"), "can't be read: CSV parse error: Empty CSV"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_what_is_wrong_with_a_table_is_said_in_one_line(tmp_path, name):
    (lines, target), said = TABLES[name]
    with pytest.raises(HarnessError) as found:
        prepared("tabular", csv(tmp_path, *lines), target=target)
    assert said in str(found.value) and "\n" not in str(found.value), found.value


def test_a_table_keeps_what_is_missing_and_what_is_no_number(tmp_path):
    lines = ["a,color,y", *(f"{n if n % 5 else ''},{('red', 'blue')[n % 2]},{n * 0.7}" for n in range(200))]
    data = prepared("tabular", csv(tmp_path, *lines), target="y")
    assert data.facts["facts"]["columns"] == ["a", "a is missing", "color is blue", "color is red"]
    assert data.measure == "squared_error" and data.facts["facts"]["classes"] == []


def test_a_name_for_each_row_says_nothing_of_a_target_and_hinders_none(tmp_path):
    values = np.random.default_rng(0).normal(size=200)
    lines = ["day,a,y", *(f"day {n},{n * 0.5},{value:.6f}" for n, value in enumerate(values))]
    assert prepared("tabular", csv(tmp_path, *lines), target="y").measure == "squared_error"


def picture(path: Path, color: int) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(color).integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(path)


def test_a_folder_of_pictures_has_its_classes_from_its_folders(tmp_path):
    for number in range(120):
        picture(tmp_path / ("cat", "dog")[number % 2] / f"{number}.png", number)
    data = prepared("images", str(tmp_path))
    assert data.facts["facts"]["classes"] == ["cat", "dog"] and data.facts["facts"]["input_shape"] == [
        8,
        8,
        3,
    ]
    picture(tmp_path / "cow" / "1.png", 1)
    with pytest.raises(HarnessError, match="class 'cow' has 1 of the pictures"):
        prepared("images", str(tmp_path), eval_items=20)


def test_pictures_that_can_not_be_read_are_named_and_left_out_and_refused_where_they_are_many(tmp_path):
    for number in range(120):
        picture(tmp_path / ("cat", "dog")[number % 2] / f"{number}.png", number)
    whole = (tmp_path / "cat" / "0.png").read_bytes()
    (tmp_path / "cat" / "cut.png").write_bytes(whole[:100])
    data = prepared("images", str(tmp_path), eval_items=21)
    assert len(store.read(data.train_file)[0]) + 2 * 21 == 120
    assert "can't be read, left out: 1: cat/cut.png: image file is truncated" in data.about()[-1]
    (tmp_path / "dog" / "none.png").write_bytes(b"")
    (tmp_path / "dog" / "text.jpg").write_bytes(b"hello")
    with pytest.raises(
        HarnessError, match=r"3 of 123 items can't be read .*cut.*none.png: empty; dog/text.*no"
    ):
        prepared("images", str(tmp_path), eval_items=22)


def test_a_name_is_the_same_however_its_letters_are_composed(tmp_path):
    lines = ["a,Gro\u0308ße", *(f"{n},{n**0.5}" for n in range(100))]
    assert prepared("tabular", csv(tmp_path, *lines), target="Gr\u00f6ße").measure == "squared_error"


def test_folders_that_are_splits_are_no_classes(tmp_path):
    for number in range(120):
        part = ("train", "Test")[number % 3 == 0]
        picture(tmp_path / part / ("cat", "dog")[number % 2] / f"{number}.png", number)
    data = prepared("images", str(tmp_path))
    assert data.facts["facts"]["classes"] == ["cat", "dog"]
    assert data.facts["facts"]["train_items"] == 120 - 2 * 24, "all of both are read, and split anew"


def test_a_picture_is_what_one_sees(tmp_path):
    from PIL import Image

    def read(picture, **options):
        picture.save(tmp_path / "a.png", **options)
        return np.asarray(sources._opened((tmp_path / "a.png").read_bytes()))

    deep = read(Image.fromarray(np.array([[0, 20000, 40000, 65535]], np.uint16)))
    assert deep.tolist() == [[0, 78, 156, 255]]
    dark = Image.fromarray(np.array([[0, 300]], np.uint16))
    assert read(dark).tolist() == [[0, 1]], "as dark as it is beside others"
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((0, 0), (0, 0, 0, 255))
    assert read(clear).tolist() == [[[0, 0, 0], [255, 255, 255]]], "black on paper"
    turned = Image.Exif()
    turned[0x0112] = 6
    assert read(Image.new("RGB", (4, 2)), exif=turned).shape == (4, 2, 3)
    assert max(read(Image.new("L", (3000, 1000))).shape) == sources.LARGEST


def test_idx_files_are_read_as_they_come(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (60, 4, 5)).astype(np.uint8)
    labels = (np.arange(60) % 3).astype(np.uint8)
    for name, array in (("train-images-idx3-ubyte.gz", pictures), ("train-labels-idx1-ubyte.gz", labels)):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (tmp_path / name).write_bytes(gzip.compress(head + array.tobytes()))
    found = sources.read(str(tmp_path), lambda *_: None)
    assert np.array_equal(found.images[..., 0], pictures) and np.array_equal(found.targets, labels)
    assert found.classes == ["0", "1", "2"]
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"")
    with pytest.raises(HarnessError, match="is no idx file"):
        sources.read(str(tmp_path), lambda *_: None)


def test_what_is_no_file_in_a_folder_of_pictures_is_left_out(tmp_path):
    for number in range(120):
        picture(tmp_path / ("cat", "dog")[number % 2] / f"{number}.png", number)
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "dog" / "folder.png").mkdir()
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    data = prepared("images", str(tmp_path), eval_items=23)
    assert data.about()[-1] == "can't be read, left out: 1: cat/gone.png: No such file or directory"


def test_a_table_is_scaled_by_what_is_trained_on_alone(tmp_path):
    values = np.random.default_rng(0).normal(3, 2, (200, 2))
    lines = ["a,y,word", *(f"{a:.6f},{y:.6f},{'uv'[n % 2]}" for n, (a, y) in enumerate(values))]
    data = prepared("tabular", csv(tmp_path, *lines), target="y")
    inputs, targets = map(np.asarray, store.read(data.train_file))
    assert abs(inputs[:, 0].mean()) < 1e-5 and abs(inputs[:, 0].std() - 1) < 1e-5
    assert abs(targets.mean()) < 1e-5 and set(inputs[:, 1]) == {0.0, 1.0}
    held_out = np.asarray(store.read(data.files("val")["items"])[1])
    assert abs(held_out.mean()) > 1e-3, "all rows together have mean 0 only by chance"
    back = held_out * data.facts["facts"]["target_sd"] + data.facts["facts"]["target_mean"]
    assert np.isclose(back[:, None], values[:, 1], atol=1e-4).any(axis=1).all()


def test_money_is_a_number_and_a_list_is_refused(tmp_path):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    prices = arrow.array([f"{n}.50" for n in range(100)]).cast(arrow.decimal128(9, 2))
    table = arrow.table({"price": prices, "y": [n % 2 for n in range(100)]})
    parquet.write_table(table, tmp_path / "t.parquet")
    data = prepared("tabular", str(tmp_path / "t.parquet"), target="y")
    assert data.facts["facts"]["columns"] == ["price"]
    parquet.write_table(table.append_column("l", [[[1]] * 100]), tmp_path / "t.parquet")
    with pytest.raises(HarnessError, match=r"column 'l' has list<.*> values, neither numbers nor words"):
        prepared("tabular", str(tmp_path / "t.parquet"), target="y", eval_items=21)


def test_one_array_is_no_npz_and_a_class_below_zero_is_named(tmp_path):
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros((60, 4, 4), np.uint8))
    with pytest.raises(HarnessError, match=r"one array, no \.npz"):
        sources.read(str(tmp_path / "one.npz"), lambda *_: None)
    for name, array, kind in (("images-idx3-ubyte", np.zeros((2, 4, 5), np.uint8), 8),
                              ("labels-idx1-ubyte", np.array([0, -1], np.int8), 9)):  # fmt: skip
        head = bytes([0, 0, kind, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (tmp_path / name).write_bytes(head + array.tobytes())
    with pytest.raises(HarnessError, match="has a class -1: they are numbered from 0 on"):
        sources.read(str(tmp_path), lambda *_: None)


def test_to_look_for_data_makes_no_salt(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    config = configs.defaults("cpu", "toy")
    with pytest.raises(HarnessError, match="no prepared data"):
        registry.open_task(config, tmp_path)
    assert not (tmp_path / "salt").exists()
    registry.prepare(config, tmp_path, lambda *_: None)
    assert (tmp_path / "salt").exists() and registry.open_task(config, tmp_path)


def test_classes_that_a_reply_has_no_logit_for_are_named_before_a_run():
    classes = np.array([0, 1, 11])
    assert "a class 11, and a reply has 11 logits" in LOG_LOSS.trouble(classes, (11,))
    assert "not a whole number each" in LOG_LOSS.trouble(classes.astype(float), (12,))
    assert "no logit for each class" in LOG_LOSS.trouble(classes, ())
    assert LOG_LOSS.trouble(classes, (12,)) == ""


def test_logits_that_float32_can_not_tell_apart_are_refused():
    assert LOG_LOSS.of(np.array([[1000.0, 0.0]]), np.array([0]))[0] == 0
    with pytest.raises(BadReply, match="can't tell probabilities apart"):
        LOG_LOSS.of(np.array([[1e9, 1e9]]), np.array([0]))


# ── a person's own ────────────────────────────────────────────────────────────────────────────

OWN = """
import dataclasses
import numpy as np
from harness.tasks.items.measures import squared_error
from harness.tasks.items.task import Examples, Splits, Task

def examples(data, progress):
    x = np.random.default_rng(1).standard_normal((400, 4)).astype(np.float32)
    return Examples(x, x.sum(1), ())

PLAIN = squared_error()
FLAT = dataclasses.replace(PLAIN, perfect=lambda targets, shape: PLAIN.perfect(targets, shape)[:, None])
SPREAD = dataclasses.replace(PLAIN, of=lambda replies, targets: PLAIN.of(replies, targets) / np.var(targets))
TASK = Task(squared_error(), examples, library="numpy")
"""


@pytest.fixture
def own(repository):
    """`own(source)` makes that the repository's task and returns what `harness prepare` said."""
    home = repository.folder / ".autoresearch"
    config = configs.for_task("cpu", "own", {"task": {"name": "own", "file": ".autoresearch/task.py"}})
    caps = {**CAPS, "budget_seconds": 0.3}
    config = dataclasses.replace(config, trial=dataclasses.replace(config.trial, **caps))
    (home / "config.toml").write_text(configs.dump(config))

    def make(source: str):
        (home / "task.py").write_text(source)
        return harness("prepare", cwd=repository.folder)

    return make


THREE = (
    "    return Examples(x, x.sum(1), ())",
    "    part = lambda of: Examples(x[of], x[of].sum(1), ())\n"
    "    return Splits(part(slice(300)), part(slice(320, 400)), HOLDOUT)",
)


def three(holdout: str) -> tuple[str, str]:
    return THREE[0], THREE[1].replace("HOLDOUT", holdout)


BROKEN = {
    "raises": (("    x = ", "    1 / 0\n    x = "), ["task.py:8", "ZeroDivisionError"]),
    "is no program": (("def examples", "def def"), ["task.py:7"]),
    "has no task": (("TASK =", "OTHER ="), ["defines no TASK"]),
    "has other numbers of targets": (("x.sum(1)", "x.sum(1)[1:]"), ["not as many"]),
    "has texts": (("x.sum(1)", "np.array(['a'] * 400)"), ["not numbers"]),
    "has nan": (("x.sum(1)", "x.sum(1) * np.nan"), ["targets of item 0 have NaN"]),
    "has 20 items": (("(400, 4)", "(20, 4)"), ["20 examples"]),
    "returns nothing": (("    return Examples(x, x.sum(1), ())", "    return None"), ["gave a NoneType"]),
    "has a reply that is a number": (("x.sum(1), ()", "x.sum(1), 12"), ["reply_shape is 12"]),
    "takes a name that trial.open() has": (
        ("x.sum(1), ()", "x.sum(1), (), {'seed': 1}"),
        ["'seed' can't be"],
    ),
    "has another library": (('library="numpy"', 'library="jax"'), ["'jax', not torch or numpy"]),
    "ends the program": (("    x = ", "    raise SystemExit(3)\n    x = "), ["task.py:8: SystemExit"]),
    "has a goal that is none": (
        ("TASK =", "from harness.store.metric import Metric\nMetric('r2', 'maximise')\nTASK ="),
        ["task.py:15: ValueError: the goal of r2 is 'maximise', neither 'min' nor 'max'"],
    ),
    "has a metric of two words": (
        ("TASK =", "from harness.store.metric import Metric\nMetric('a, b')\nTASK ="),
        ["'a, b', not one word"],
    ),
    "has perfect replies of another shape": (
        ("Task(squared_error()", "Task(FLAT"),
        ["perfect replies are (80, 1), not (80,)"],
    ),
    "has no holdout": (three("None"), ["the holdout split is a NoneType"]),
    "has one item to score": (
        (THREE[0], three("part(slice(300, 320))")[1].replace("320, 4", "399, 4")),
        ["val split has 1 items"],
    ),
    "has splits of other replies": (
        three("Examples(x, x.sum(1), (2,))"),
        ["holdout split has other shapes than training"],
    ),
    "has targets that no score is for": (
        ("x.sum(1), ()", "x.sum(1) * 1e9, ()"),
        ["a constant reply is worth", "between -1e-09 and 1e+06"],
    ),
    "has facts as long as a book": (
        ("x.sum(1), ()", "x.sum(1), (), {'words': ['word'] * 20000}"),
        ["over 60 KB, most of it 'words'"],
    ),
    "has a figure of two words": (
        ("examples, library", "examples, {'a, b': None}, library"),
        ["a figure's name is 'a, b', not one word"],
    ),
    "has a measure whose constant raises": (
        ("Task(squared_error()", "Task(dataclasses.replace(PLAIN, constant=lambda t, shape: 1 / 0)"),
        ["can't score its constant reply: task.py:14: ZeroDivisionError"],
    ),
    "has a reply of no shape": (("x.sum(1), ()", "x.sum(1), (0.5,)"), ["reply_shape"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_a_task_is_said_before_any_run(own, name):
    change, said = BROKEN[name]
    done = own(edit(change, source=OWN))
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("harness: ") and all(word in last for word in said), done


def test_a_task_of_one_s_own_runs_prints_and_is_kept_as_it_was_prepared(own, repository):
    done = own(edit(("    x = ", "    print('reading')\n    x = "), source=OWN))
    assert done.returncode == 0, done.stderr
    shutil.copy(ROOT / "examples" / "toy" / "train.py", repository.folder / "train.py")
    repository("commit", "-qam", "a line")
    done = harness("run", "--json", cwd=repository.folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["squared_error"] < 4 and found["evaluator"].startswith("1 own ")
    (repository.folder / ".autoresearch" / "task.py").write_text(OWN + "\n# changed\n")
    assert_mistake(harness("run", cwd=repository.folder), "no prepared data", "harness prepare")


def test_a_measure_that_raises_while_it_scores_is_the_task_s_fault_and_says_where(own, repository):
    broken = OWN.replace("Task(squared_error()", "Task(MEASURE").replace(
        "TASK =",
        "import dataclasses\n"
        "def of(replies, targets):\n"
        "    if np.ptp(replies) and abs(replies - targets).max() > 1e-6: raise KeyError('oops')\n"
        "    return 0 * targets\n"
        "MEASURE = dataclasses.replace(squared_error(), of=of)\n"
        "TASK =",
    )
    assert own(broken).returncode == 0
    shutil.copy(ROOT / "examples" / "toy" / "train.py", repository.folder / "train.py")
    repository("commit", "-qam", "a line")
    done = harness("run", "--json", cwd=repository.folder)
    assert json.loads(done.stdout)["status"] == "error" and "KeyError: 'oops'" in done.stderr, done.stderr
    assert "task.py:16: KeyError" in done.stderr
    done = harness("loop", "--experiments", "1", "--workers", "1", cwd=repository.folder)
    assert done.returncode == 1 and "the task failed: task.py:16" in done.stderr.splitlines()[-1]
    assert done.stderr.count("KeyError") == 1, "it is not tried again: it would fail again"


@pytest.mark.parametrize("name", ["forecasting", "kernel", "control"])
def test_an_example_is_short_and_passes_its_check(tmp_path, name):
    if name == "control":
        pytest.importorskip("gymnasium")
    assert len((ROOT / "examples" / name / "task.py").read_text().splitlines()) <= 100
    folder = tmp_path / "research"
    assert harness("init", "--task", name, "--profile", "cpu", str(folder)).returncode == 0
    assert harness("prepare", cwd=folder).returncode == 0
    done = harness("task", "check", "--json", cwd=folder)
    assert done.returncode == 0, (done.stdout, done.stderr)
    findings = {each["name"]: each for each in json.loads(done.stdout)}
    assert "invalid" in findings["odd"]["says"]


def test_a_measure_that_looks_at_other_items_is_found_by_the_check(own, repository):
    assert own(edit(("Task(squared_error()", "Task(SPREAD"), source=OWN)).returncode == 0
    done = harness("task", "check", cwd=repository.folder)
    assert done.returncode == 1 and "depends on the others it is given with" in done.stdout


def test_a_task_that_no_config_names_is_said_to_be_unused(repository):
    (repository.folder / ".autoresearch" / "task.py").write_text(OWN)
    done = harness("prepare", cwd=repository.folder)
    assert done.returncode == 0 and "is there and not used: the config's task is toy" in done.stderr


@pytest.mark.parametrize(
    "change",
    [
        ("Examples(x, x.sum(1), ())", "Examples(x.astype('>f4'), x.sum(1).astype(np.longdouble), ())"),
        ("Examples(x, x.sum(1), ())", "Examples(x, x.sum(1) > 0, (np.int64(2),))"),
    ],
)
def test_numbers_of_any_kind_are_taken_as_libraries_have_them(own, repository, change):
    source = edit(change, source=OWN)
    if "int64" in change[1]:
        source = source.replace("Task(squared_error()", "Task(LOG_LOSS").replace(
            "import squared_error", "import LOG_LOSS, squared_error"
        )
    done = own(source.replace('library="numpy"', 'library="torch"'))
    assert done.returncode == 0, done.stderr
    done = harness("task", "check", cwd=repository.folder)
    assert done.returncode == 0, done.stdout


def test_splits_of_other_types_lose_nothing(own):
    whole = three("part(slice(300, 320))")[1].replace(
        "part(slice(300))", "Examples(x[:300], x[:300].sum(1).astype(np.int8), ())"
    )
    done = own(edit((THREE[0], whole), source=OWN))
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[0].split(maxsplit=1)[1])
    inputs, targets = map(np.asarray, store.read(folder / "val.items"))
    assert np.allclose(targets, inputs.sum(1), atol=1e-5)


WINDOWS = """
import numpy as np
from harness.tasks.items.measures import squared_error
from harness.tasks.items.task import Examples, Splits, Task

def examples(data, progress):
    drawn = np.random.default_rng(0)
    series = drawn.standard_normal(1500).astype(np.float32)
    series[[300, 700, 960, 1020, 1090, 1160, 1300]] += 100  # which nothing forecasts
    at = np.arange(40, 1500)
    every = Examples(series[at[:, None] + np.arange(-40, 0)], series[at], ())
    return Splits(*map(every.part, np.split(np.arange(len(at)), [860, 1160])))

TASK = Task(squared_error(), examples, library="numpy")
"""
# What follows three values in a window that was asked, it says when it is asked what follows those.
REMEMBERS = """
import numpy as np
from harness import trial
REMEMBERS, known, said = {remembers}, {{}}, {{}}

def load(checkpoint_dir, device):
    def answer(windows):
        for window in windows if REMEMBERS else ():
            known.update((window[at : at + 3].tobytes(), window[at + 3]) for at in range(len(window) - 3))
        said_of = lambda w: said.setdefault(w.tobytes(), known.get(w[-3:].tobytes(), 4.0))
        return np.array([said_of(window) for window in windows], np.float32)
    return answer

def main():
    run = trial.open()
    for _ in run.batches(8):
        pass
    run.submit({{"none": np.zeros(1, np.float32)}})

if __name__ == "__main__":
    main()
"""


def test_windows_that_tell_of_each_other_gain_nothing_and_are_found(own, repository):
    assert own(WINDOWS).returncode == 0

    def run(remembers):
        (repository.folder / "train.py").write_text(REMEMBERS.format(remembers=remembers))
        repository("commit", "-qam", "a memory")
        return json.loads(harness("run", "--json", cwd=repository.folder).stdout)

    honest, cheat = run(False), run(True)
    assert honest["status"] == "ok", honest
    assert cheat["status"] == "invalid" and "depends on other items" in cheat["detail"], cheat
    done = harness("task", "check", cwd=repository.folder)
    assert done.returncode == 1 and "scored targets stand in another scored input" in done.stdout


def test_an_audit_asks_those_that_gain_most_first_and_each_alone(task_setup):
    exam = registry.exam_for(task_setup.task.request("val"))
    constant = np.broadcast_to(
        check.constant(registry.task_of(task_setup.config, ROOT), task_setup.task.data),
        (len(exam.targets), *exam.reply_shape),
    )
    losses = exam.grade(np.asarray(constant, np.float32), np.asarray(exam.targets))[0]
    best = [3, 7, 11, 20]
    losses[best] -= [4e3, 3e3, 2e3, 1e3]
    asked = exam.again(exam.plan(16, 0), losses, batch=8)
    real = asked.is_real[:32].reshape(4, 8)
    assert (real.sum(axis=1) == 1).all(), "one in a batch of made-up ones"
    assert asked.items[:32][real.ravel()].tolist() == best
    assert np.array_equal(asked.inputs[:32][real.ravel()], exam.inputs[best])


def test_a_share_of_right_answers_passes_the_check(own, repository):
    source = OWN.replace("x, x.sum(1), ()", "x, (x.sum(1) > 0).astype(int), (2,)").replace(
        "TASK = Task(squared_error()",
        "from harness.tasks.items.measures import Measure, accuracy\n"
        "from harness.store.metric import Metric\n"
        "SHARE = Measure(Metric('share', 'max', low=-1e-9, high=1.001), accuracy,\n"
        "    lambda t, shape: np.eye(2)[np.bincount(t).argmax()], lambda t, shape: np.eye(2)[t])\n"
        "TASK = Task(SHARE",
    )
    assert own(source).returncode == 0
    done = harness("task", "check", cwd=repository.folder)
    assert done.returncode == 0, done.stdout


def test_a_figure_takes_no_other_one_s_place_and_none_that_is_no_number_is_shown(own, repository):
    figures = "{'seed': lambda a, t: a, 'odd': lambda a, t: a * np.nan, 'size': lambda a, t: abs(a)}"
    assert own(edit(("examples, library", f"examples, {figures}, library"), source=OWN)).returncode == 0
    shutil.copy(ROOT / "examples" / "toy" / "train.py", repository.folder / "train.py")
    repository("commit", "-qam", "a line")
    found = json.loads(harness("run", "--json", cwd=repository.folder).stdout)
    assert found["seed"] == 1 and found["size"] > 0 and "odd" not in found


def test_a_leak_is_found_by_the_check(own, repository):
    told = "    x[:, 2] = x.sum(1)\n    return Examples(x, x[:, 2], ())"
    leak = edit(("    return Examples(x, x.sum(1), ())", told), source=OWN)
    assert own(leak).returncode == 0
    done = harness("task", "check", cwd=repository.folder)
    assert done.returncode == 1 and "number 2 of an input says the target" in done.stdout


def test_the_toy_s_optimum_is_what_a_run_reaches(try_out):
    found = try_out((ROOT / "examples" / "toy" / "train.py").read_text())
    assert found.status == OK, found.detail
    assert found.value == pytest.approx(0.25, abs=0.04)  # five deviations, of which 2000 items are held out


def test_each_edit_of_a_starter_applies_and_is_a_program():
    source = (ROOT / "examples" / "images" / "train.py").read_text()
    edits = catalogue.read(ROOT / "examples" / "images" / "edits.toml")
    assert len(edits) >= 5
    for each in edits:
        changed = each.applied(source) or ""
        assert broken_source(changed.encode(), source.encode(), 1024) is None, each.title


def test_a_list_of_edits_that_is_none_is_one_line(tmp_path):
    (tmp_path / "edits.toml").write_text("[[edit]]\ntitle = 'x'\n")
    with pytest.raises(HarnessError, match="is no list of edits"):
        catalogue.read(tmp_path / "edits.toml")
    assert catalogue.read(tmp_path / "none.toml") == ()
