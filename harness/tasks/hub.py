"""Downloads of dataset files through huggingface_hub: parallel, resumable, verified.

huggingface_hub resumes a broken file where it stopped and keeps what is complete; what it doesn't do
is check the content, so the sha256 that the hub stores for a large file is checked here, once, and
remembered beside it.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.paths import downloads_dir, write_atomically
from harness.tasks.folder import Progress

CLIMBMIX = "karpathy/climbmix-400b-shuffle"
CLIMBMIX_VAL = "shard_06542.parquet"  # the last shard, pinned as the reference project does
TINYSTORIES = "karpathy/tinystories-gpt4-clean"
PARALLEL = 8
PREFIX = "hf:"
DATA = r".*\.(parquet|arrow|jsonl?|ndjson|csv|tsv|txt|md|zip|tar|tgz)(\.(gz|bz2|xz|zst))?"
CONVERTED = "refs/convert/parquet"  # where the hub keeps a copy, also of data sets that are a program
LISTED = 12


@dataclass(frozen=True)
class Chosen:
    """Files of a dataset repository."""

    repository: str
    revision: str
    """A commit."""
    files: tuple[tuple[str, str], ...]
    """Each with a name whose folder is its split."""
    of: int
    """So many there are."""


def choose(source: str, shards: int) -> Chosen:
    """The files that `hf:OWNER/NAME`, `hf:OWNER/NAME/CONFIG` or either `@REVISION` means.

    Args:
        shards: at most so many files of the training split.

    Raises:
        HarnessError: there is no such data set, or no file of text; or the hub can't be reached.
    """
    matched = re.fullmatch(r"hf:([^/@\s]+/[^/@\s]+)(?:/([^@]+))?(?:@(\S+))?", source)
    if matched is None:
        raise HarnessError(f"{source!r} is not hf:OWNER/NAME", 'source = "hf:roneneldan/TinyStories"')
    repository, config, revision = matched.groups()
    there, configs, commit = _listed(repository, revision)
    files = _of_config(source, there, configs, config)
    if not files and revision is None:
        with suppress(_NoRevision):  # it may have none
            there, _, commit = _listed(repository, CONVERTED)
            folders = [{"config_name": name, "data_files": f"{name}/*"} for name in _folders(there)]
            files = _of_config(source, there, folders, config)
    if not files:
        raise HarnessError(f"{source} has no file with text", "another `source` in .autoresearch/config.toml")
    train = [file for file in files if not re.search(r"\b(val|valid|validation|dev|test)\b", file[1])]
    left_out = set(train[shards:])
    kept = tuple(file for file in files if file not in left_out)
    return Chosen(repository, commit, kept, len(files))


def _listed(repository: str, revision: str | None) -> tuple[list[str], list[Any], str]:
    """Names of its files, configurations as its card says, its commit. A commit stays what it is: once one
    was listed nobody is asked."""
    from huggingface_hub import HfApi

    is_commit = revision is not None and re.fullmatch("[0-9a-f]{40}", revision)
    kept = _folder(repository, f"{revision}.json") if is_commit else None
    if kept is not None and kept.exists():
        with suppress(ValueError):  # else it is broken
            there, configs = json.loads(kept.read_text(encoding="utf-8"))
            return there, configs, revision or ""
    with _failures(repository, revision):
        info = HfApi().dataset_info(repository, revision=revision)
    there = sorted(sibling.rfilename for sibling in info.siblings or [])
    configs = (info.card_data.to_dict() if info.card_data else {}).get("configs") or []
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps([there, configs]).encode())
    return there, configs, info.sha or revision or "main"


def _folder(repository: str, name: str) -> Path:
    return downloads_dir() / repository.replace("/", "--") / name


def _folders(names: list[str]) -> list[str]:
    return list(dict.fromkeys(name.partition("/")[0] for name in names if "/" in name))


def _of_config(
    source: str, names: list[str], configs: list[Any], wanted: str | None
) -> list[tuple[str, str]]:
    """Files, each below its split, as the data set's card says; without one all, parquet if there is any."""
    data = [
        name for name in names if re.fullmatch(DATA, name, re.IGNORECASE) and not name.startswith("README")
    ]
    known = {str(each.get("config_name")): each for each in configs if each.get("data_files")}
    if not known and wanted is None:
        parquet = [name for name in data if name.endswith(".parquet")]
        return [(name, name) for name in parquet or data]
    default = [name for name, each in known.items() if each.get("default") or name == "default"]
    chosen = wanted or (default or list(known))[0]
    if chosen not in known or (wanted is None and not default and len(known) > 1):
        listed = ", ".join(list(known)[:LISTED]) + (", ..." if len(known) > LISTED else "")
        owner = source.partition("@")[0].removesuffix(f"/{wanted}")
        raise HarnessError(
            f"{source} has the configurations {listed or 'none'}",
            f'source = "{owner}/{next(iter(known), "")}"',
        )
    said = known[chosen]["data_files"]
    found = []
    for part in said if isinstance(said, list) else [said]:
        split, paths = (part.get("split", ""), part.get("path")) if isinstance(part, dict) else ("", part)
        for pattern in paths if isinstance(paths, list) else [paths]:
            found += [
                (name, f"{split}/{name}" if split else name) for name in data if _matches(name, str(pattern))
            ]
    return list(dict.fromkeys(found))


def _matches(name: str, pattern: str) -> bool:
    """As the hub's patterns do: `*` within a folder, `**` over some."""
    parts = re.split(r"(\*\*/?|\*|\?)", pattern)
    meant = {"**/": r"(?:.*/)?", "**": ".*", "*": "[^/]*" if "/" in pattern else ".*", "?": "[^/]"}
    return re.fullmatch("".join(meant.get(part, re.escape(part)) for part in parts), name) is not None


class _NoRevision(HarnessError):
    """The data set is there, but not that branch, tag or commit of it."""


@contextmanager
def _failures(repository: str, revision: str | None = None) -> Iterator[None]:
    """What goes wrong with the hub, in one line."""
    import httpx
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        why = f"{repository} asks for an agreement: accept it at huggingface.co/datasets/{repository}"
        raise HarnessError(why, "hf auth login, or HF_TOKEN=..., then the same command again") from None
    except RevisionNotFoundError:
        why = f"{repository} has no revision {revision!r}: a branch, a tag, or all 40 digits of a commit"
        raise _NoRevision(why, f'source = "hf:{repository}", as it is now') from None
    except RepositoryNotFoundError:
        why = f"the hub has no data set {repository}, or not for everybody"
        raise HarnessError(
            why, "its name at huggingface.co/datasets; hf auth login where it is private"
        ) from None
    except OfflineModeIsEnabled:
        why = f"HF_HUB_OFFLINE is set, and {repository} is not here yet"
        raise HarnessError(why, "the same command without HF_HUB_OFFLINE") from None
    except (httpx.HTTPError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        where = f"HF_ENDPOINT ({os.environ['HF_ENDPOINT']})" if "HF_ENDPOINT" in os.environ else "the network"
        raise HarnessError(
            f"could not download {repository}: {reason}; what is complete was kept",
            f"{where}, then the same command again; it resumes",
        ) from None


def climbmix_files(shards: int) -> list[str]:
    """The first `shards` training shards, and the validation shard."""
    if not 1 <= shards <= 6542:
        raise HarnessError(f"climbmix has 1 to 6542 training shards, not {shards}")
    return [*(f"shard_{i:05d}.parquet" for i in range(shards)), CLIMBMIX_VAL]


def download(
    repository: str, names: list[str] | None, progress: Progress, revision: str | None = None
) -> list[Path]:
    """Fetch files of a dataset repository; all its parquet and text files where `names` is None.

    Returns:
        Local paths, in the order of `names`.

    Raises:
        HarnessError: the hub can't be reached, lacks a file, or a file's sha256 differs.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # ours counts all files together
    with _failures(repository, revision):
        if names is None:
            listed = HfApi().list_repo_files(repository, repo_type="dataset")
            names = sorted(n for n in listed if n.endswith((".parquet", ".jsonl", ".txt")))
            names = [n for n in names if n.endswith(".parquet")] or names
        folder = _folder(repository, revision or "")
        folder.mkdir(parents=True, exist_ok=True)
        done = 0
        paths = []
        with ThreadPoolExecutor(min(PARALLEL, max(1, len(names)))) as pool:
            for path in pool.map(lambda name: _fetch(repository, name, folder, revision), names):
                done += 1
                progress("download", done, len(names))
                paths.append(path)
        return paths


def _fetch(repository: str, name: str, folder: Path, revision: str | None) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    path = folder / name
    checked = path.with_name(path.name + ".sha256")
    if path.exists() and checked.exists():
        return path
    url = hf_hub_url(repository, name, repo_type="dataset", revision=revision)
    wanted = get_hf_file_metadata(url).etag or ""
    hf_hub_download(repository, name, repo_type="dataset", local_dir=folder, revision=revision)
    if len(wanted) == 64:  # small files carry a git blob id instead
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wanted:
            path.unlink()
            raise HarnessError(
                f"{name}: sha256 is {found[:12]}, the hub says {wanted[:12]}; the file was removed",
                "the same command again",
            )
    checked.write_text(wanted, encoding="ascii")
    return path
