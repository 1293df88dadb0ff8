"""Upload a bundle to the Hugging Face hub, after showing what would be uploaded."""

from __future__ import annotations

import re
from pathlib import Path

from cl2cm_jax.errors import UserError, not_installed, one_line
from cl2cm_jax.runtime.checksums import verify_checksums
from cl2cm_jax.trained.bundle_layout import CARD, MANIFEST, read_manifest

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def push(bundle: Path, *, repo: str, revision: str, private: bool, yes: bool) -> None:
    """Prints the files of a bundle with their sizes and, with `yes`, uploads them in one commit.

    Args:
      bundle: the folder.
      repo: "org/name"; created if it does not exist.
      revision: branch to write to; created if it does not exist.
      private: whether a new repository is private.
      yes: upload.

    Raises:
      UserError: the folder is not a complete bundle, `repo` is not such a name, or the hub refuses.
    """
    if not _REPO.fullmatch(repo):
        raise UserError(f"--repo={repo!r} is not a repository name; write org/name")
    manifest = read_manifest(bundle)  # checks the files of the model
    try:
        verify_checksums(bundle)
    except (OSError, ValueError) as error:
        raise UserError(f"--bundle={bundle}: {one_line(error)}, by its checksums; export the run again") from error
    files = _files(bundle)
    for file in files:
        print(f"{file.stat().st_size:>13,}  {file.relative_to(bundle).as_posix()}")
    size = sum(file.stat().st_size for file in files)
    print(f"{size:>13,}  bytes in {len(files)} files, weights {manifest.weights}, for {repo} ({revision})")
    if not yes:
        print("nothing was uploaded; review README.md, then add --yes")
        return
    print(f"uploaded: {_upload(bundle, files, repo=repo, revision=revision, private=private)}")


def _files(bundle: Path) -> list[Path]:
    """Everything in the bundle but hidden files; refuses links, which may point anywhere."""
    files = []
    for path in sorted(bundle.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(bundle).parts):
            continue
        if path.is_symlink():
            raise UserError(f"--bundle={bundle}: {path.name} is a link; put the file itself there")
        files += [path] if path.is_file() else []
    if not (bundle / CARD).is_file():
        raise UserError(f"--bundle={bundle} has no {CARD}; export the run again, or write the card")
    return files


def _upload(bundle: Path, files: list[Path], *, repo: str, revision: str, private: bool) -> str:
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError as error:
        raise not_installed("huggingface_hub") from error
    api = HfApi()
    operations = [CommitOperationAdd(file.relative_to(bundle).as_posix(), str(file)) for file in files]
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if revision != "main":
            api.create_branch(repo, branch=revision, exist_ok=True)
        message = f"A bundle of cl2cm_jax ({MANIFEST} names its files)"
        return str(api.create_commit(repo, operations, commit_message=message, revision=revision).commit_url)
    except Exception as error:  # no network, no token, no right to write: each client version has its own exceptions
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UserError(
            f"--repo={repo}: the hub refused ({lines[0].strip()}); log in with: hf auth login, and check that you "
            "have write access"
        ) from error
