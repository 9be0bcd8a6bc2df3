"""Downloads of dataset files through huggingface_hub: parallel, resumable, verified.

huggingface_hub resumes a broken file where it stopped and keeps what is complete; what it doesn't do
is check the content, so the sha256 that the hub stores for a large file is checked here, once, and
remembered beside it.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.errors import HarnessError
from harness.paths import downloads_dir
from harness.tasks.folder import Progress

CLIMBMIX = "karpathy/climbmix-400b-shuffle"
CLIMBMIX_VAL = "shard_06542.parquet"  # the last shard, pinned as the reference project does
TINYSTORIES = "karpathy/tinystories-gpt4-clean"
PARALLEL = 8


def climbmix_files(shards: int) -> list[str]:
    """The first `shards` training shards, and the validation shard."""
    if not 1 <= shards <= 6542:
        raise HarnessError(f"climbmix has 1 to 6542 training shards, not {shards}")
    return [*(f"shard_{i:05d}.parquet" for i in range(shards)), CLIMBMIX_VAL]


def download(repository: str, names: list[str] | None, progress: Progress) -> list[Path]:
    """Fetch files of a dataset repository; all its parquet and text files where `names` is None.

    Returns:
        Local paths, in the order of `names`.

    Raises:
        HarnessError: the hub can't be reached, lacks a file, or a file's sha256 differs.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # ours counts all files together
    try:
        if names is None:
            listed = HfApi().list_repo_files(repository, repo_type="dataset")
            names = sorted(n for n in listed if n.endswith((".parquet", ".jsonl", ".txt")))
            names = [n for n in names if n.endswith(".parquet")] or names
        folder = downloads_dir() / repository.replace("/", "--")
        folder.mkdir(parents=True, exist_ok=True)
        done = 0
        paths = []
        with ThreadPoolExecutor(min(PARALLEL, max(1, len(names)))) as pool:
            for path in pool.map(lambda name: _fetch(repository, name, folder), names):
                done += 1
                progress("download", done, len(names))
                paths.append(path)
        return paths
    except (httpx.HTTPError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise HarnessError(
            f"could not download {repository}: {reason}; what is complete was kept",
            "the network, then the same command again; it resumes",
        ) from None


def _fetch(repository: str, name: str, folder: Path) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    path = folder / name
    checked = path.with_name(path.name + ".sha256")
    if path.exists() and checked.exists():
        return path
    wanted = get_hf_file_metadata(hf_hub_url(repository, name, repo_type="dataset")).etag or ""
    hf_hub_download(repository, name, repo_type="dataset", local_dir=folder)
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
