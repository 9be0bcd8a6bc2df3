"""Where pictures come from: Fashion-MNIST, CIFAR-10, a data set of the hub, a folder, an `.npz`, idx files.

All give pictures (N, H, W, C) uint8, a class of each (N,) int64 from 0 on, and the classes' names. A set's
own test pictures are read with the rest: what is held out is drawn anew, see `harness.tasks.items.prepare`.
"""

import gzip
import hashlib
import io
import lzma
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.paths import downloads_dir
from harness.tasks.folder import Progress, refuse

MOST_FILES = 1000  # of a data set of the hub


class Unreadable(Exception):
    """A single picture."""


@dataclass(frozen=True)
class Pictures:
    images: np.ndarray
    """(N, H, W, C) uint8."""
    targets: np.ndarray
    """(N,) int64, from 0 on."""
    classes: list[str]
    unread: Mapping[str, str] = field(default_factory=dict)
    """What is left out: places, and why."""


NAMED = ("fashion-mnist", "cifar10", "hf:OWNER/NAME")
# Debian's package of Fashion-MNIST (MIT licence): 70,000 pictures of 28 x 28.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
URL = (
    "https://deb.debian.org/debian/pool/main/d/dataset-fashion-mnist/"
    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb"
)
DIGEST = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
CLOTHES = [
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
]
CIFAR10 = "uoft-cs/cifar10"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
LARGEST = 256
SIDE = 64  # of pictures that differ in size: each is scaled and cut to a square
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def downloads() -> Path:
    return downloads_dir() / "images"


def read(source: str, progress: Progress) -> Pictures:
    """All pictures of a source.

    Raises:
        HarnessError: there is no such source, or none in it that can be read; one line with its place.
    """
    if source == "fashion-mnist":
        return replace(_idx(_fashion_mnist(progress)), classes=CLOTHES)
    if source == "cifar10":
        return _hub(CIFAR10, progress)
    if source.startswith("hf:"):
        return _hub(source, progress)
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".npz":
        return _npz(path)
    if path.is_dir():
        return _idx(path) if [*path.glob("*idx3-ubyte*")] else _folders(path, progress)
    raise HarnessError(
        f"no pictures at {source!r}: not {', '.join(NAMED)}, a folder with a folder a class, or an .npz",
        "another `source` in .autoresearch/config.toml",
    )


# ── idx files, as MNIST and those after it come ────────────────────────────────────────────────


def _idx(folder: Path) -> Pictures:
    """Of pairs such as train-images-idx3-ubyte(.gz) and train-labels-idx1-ubyte(.gz)."""
    pictures, targets = [], []
    for images in sorted(folder.glob("*images*idx3-ubyte*")):
        labels = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
        found, named = _idx_array(images), _idx_array(labels)
        if found.ndim != 3 or named.shape != found.shape[:1]:
            raise HarnessError(f"{images} has {found.shape} pictures, {labels} {named.shape} labels")
        pictures.append(found)
        targets.append(named)
    if not pictures:
        raise HarnessError(f"{folder} has no *images*idx3-ubyte file")
    joined = np.concatenate(targets).astype(np.int64)
    if joined.min(initial=0) < 0:
        raise HarnessError(f"{folder} has a class {joined.min()}: they are numbered from 0 on")
    return Pictures(np.concatenate(pictures)[..., None], joined, _numbered(joined))


def _numbered(targets: np.ndarray) -> list[str]:
    return [str(name) for name in range(int(targets.max(initial=-1)) + 1)]


def _idx_array(path: Path) -> np.ndarray:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        kind, dimensions = data[2], data[3]
        shape = np.frombuffer(data, ">i4", dimensions, 4)
        return np.frombuffer(data, IDX_TYPES[kind], int(np.prod(shape)), 4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, KeyError) as error:
        raise HarnessError(f"{path} is no idx file: {error}") from None


def _fashion_mnist(progress: Progress) -> Path:
    """Its folder: installed, downloaded before, or now."""
    if [*DEBIAN.glob("*idx3-ubyte*")]:
        return DEBIAN
    folder = downloads() / "fashion-mnist"
    if not folder.is_dir():
        progress("download", 0, 1)
        package = _package()
        if hashlib.sha256(package).hexdigest() != DIGEST:
            raise HarnessError(
                f"the package {PACKAGE} is not the one that is known", f"apt install {PACKAGE}"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            _unpack(package, Path(made))
            (Path(made) / DEBIAN.relative_to("/")).rename(folder)
        progress("download", 1, 1)
    return folder


def _package() -> bytes:
    """Debian's, from the package archive that this machine uses, or from Debian's own."""
    if shutil.which("apt-get"):
        with tempfile.TemporaryDirectory() as made:
            done = subprocess.run(
                ["apt-get", "download", "-qq", PACKAGE], cwd=made, capture_output=True, check=False
            )
            found = [*Path(made).glob("*.deb")]
            if done.returncode == 0 and found:
                return found[0].read_bytes()
    try:
        with urllib.request.urlopen(URL, timeout=60) as answer:
            return answer.read()
    except (OSError, urllib.error.URLError) as error:
        raise HarnessError(f"can't download {URL}: {error}", f"apt install {PACKAGE}") from None


def _unpack(package: bytes, folder: Path) -> None:
    """The data of a Debian package, an `ar` archive: 8 bytes, then 60 bytes before each member."""
    at = 8
    while at < len(package):
        name, size = package[at : at + 16].strip(), int(package[at + 48 : at + 58])
        if name.startswith(b"data.tar.xz"):
            data = lzma.decompress(package[at + 60 : at + 60 + size])
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                archive.extractall(folder, filter="data")
        at += 60 + size + size % 2


# ── the hub, folders, npz ──────────────────────────────────────────────────────────────────────


def _hub(source: str, progress: Progress) -> Pictures:
    """Of a data set in parquet files, with a column of pictures and one of classes."""
    from harness.tasks import hub

    chosen = hub.choose(source, shards=MOST_FILES)
    names = [name for name, _ in chosen.files if name.endswith(".parquet")]
    if not names:
        raise HarnessError(f"{source} has no parquet files")
    files = hub.download(chosen.repository, names, progress, chosen.revision)
    classes = list[str]()

    def rows() -> Iterator[tuple[str, bytes | str, int]]:
        for path in files:
            for row, (data, label, names) in enumerate(_parquet_rows(path)):
                classes.extend([] if classes else names)
                yield f"{path.name}, row {row}", data, label

    found = _pictures(rows(), source)
    return replace(found, classes=classes or _numbered(found.targets))


def _parquet_rows(path: Path) -> Iterator[tuple[bytes, int, list[str]]]:
    """A picture's bytes, its class, and the classes' names if the file says them."""
    import json

    import pyarrow as arrow
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(path)
    schema = file.schema_arrow
    images = [field.name for field in schema if arrow.types.is_struct(field.type)]
    labels = [field.name for field in schema if arrow.types.is_integer(field.type)]
    if not images or not labels:
        raise HarnessError(f"{path} has no column of pictures and one of classes, only {schema.names}")
    said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = said.get("info", {}).get("features", {}).get(labels[0], {})
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=[images[0], labels[0]])
        for image, label in zip(table[images[0]].to_pylist(), table[labels[0]].to_pylist(), strict=True):
            yield (image or {}).get("bytes") or b"", int(label), features.get("names") or []


def _folders(folder: Path, progress: Progress) -> Pictures:
    """Of a folder with a folder a class, named after it; or of several, one a split, all read as one."""
    parts = [folder]
    if (inside := _subfolders(folder)) and all(path.name.lower() in SPLITS for path in inside):
        parts = inside
    found = [path for part in parts for path in _subfolders(part)]
    classes = sorted({path.name for path in found})
    files = [
        (path, classes.index(place.name))
        for place in found
        for path in sorted(place.rglob("*"))
        if path.suffix.lower() in SUFFIXES and (path.is_file() or not path.exists())
    ]
    if not files:
        raise HarnessError(
            f"{folder} has no folder with pictures ({', '.join(SUFFIXES)})",
            "a folder for each class there, named after it, or another `source`",
        )

    def every() -> Iterator[tuple[str, bytes | str, int]]:
        for done, (path, number) in enumerate(files):
            if done % 1000 == 0:
                progress("read pictures", done, len(files))
            where = str(path.relative_to(folder))
            try:
                yield where, path.read_bytes(), number
            except OSError as why:
                yield where, why.strerror or "unreadable", number

    return replace(_pictures(every(), str(folder)), classes=classes)


def _pictures(every: Iterable[tuple[str, bytes | str, int]], source: str) -> Pictures:
    """Of places, bytes (or why there are none) and classes; what can't be opened is left out."""
    opened, targets, unread = [], list[int](), dict[str, str]()
    for where, data, number in every:
        try:
            if isinstance(data, str):
                raise Unreadable(data)
            opened.append(_opened(data))
            targets.append(number)
        except Unreadable as why:
            unread[where] = str(why)
    if not opened:
        refuse(source, unread, len(unread), "pictures")
        raise HarnessError(f"{source} has no pictures", "another `source`")
    return Pictures(_same_size(opened), np.array(targets, np.int64), [], unread)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _opened(data: bytes) -> Any:
    """
    Raises:
        Unreadable: it is none, or not whole.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))  # as the camera was held
        if picture.mode[0] in "IF":  # converted, all that is over 255 would be white
            values = np.asarray(picture)
            if picture.mode == "F" or values.min() < 0 or values.max() >= 2**16:
                raise Unreadable(f"{picture.mode} pixels, neither of 8 nor of 16 bits")
            is_deep = picture.mode.startswith("I;16") or values.max() > 255
            picture = Image.fromarray((values // (256 if is_deep else 1)).astype(np.uint8))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return _smaller(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    except UnidentifiedImageError:
        raise Unreadable("no picture" if data else "empty") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unreadable(" ".join(str(error).split())[:100] or type(error).__name__) from None


def _smaller(picture: Any) -> Any:
    """No side over `LARGEST`: a thousand photographs are 30 GB."""
    picture.thumbnail((LARGEST, LARGEST))
    return picture


def _same_size(pictures: list[Any]) -> np.ndarray:
    """(N, H, W, C): colour if any has it, cut to a square where sizes differ."""
    from PIL import ImageOps

    sizes = Counter(picture.size for picture in pictures)
    mode = "RGB" if any(picture.mode == "RGB" for picture in pictures) else "L"
    if len(sizes) > 1:
        pictures = [ImageOps.fit(picture, (SIDE, SIDE)) for picture in pictures]
    stacked = np.stack([np.asarray(picture.convert(mode), np.uint8) for picture in pictures])
    return stacked if stacked.ndim == 4 else stacked[..., None]


def _npz(path: Path) -> Pictures:
    """Of two arrays, the larger one pictures and the other one classes."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = sorted((archive[name] for name in archive.files), key=lambda array: array.ndim)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        why = "one array, no .npz" if isinstance(error, TypeError) else error
        raise HarnessError(f"{path} can't be read: {why}") from None
    if len(arrays) != 2 or arrays[0].ndim != 1 or arrays[1].ndim not in (3, 4):
        raise HarnessError(
            f"{path}: wanted are pictures (N, H, W) or (N, H, W, C), and classes (N,); no more"
        )
    labels, pictures = arrays
    if pictures.dtype != np.uint8 or len(pictures) != len(labels):
        raise HarnessError(
            f"{path}: {pictures.shape} pictures of {pictures.dtype}, not uint8, for {labels.shape}"
        )
    names, targets = np.unique(labels, return_inverse=True)
    pictures = pictures if pictures.ndim == 4 else pictures[..., None]
    return Pictures(pictures, targets.astype(np.int64), [str(name) for name in names])
