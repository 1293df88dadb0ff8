"""What a run was built on, by content: its data, and the files of its backbones and tokenizers.

It is kept in `built_on.json` of the workdir. Computed numbers and paths are no part of it, so that the same data on
another machine, on other devices or in another place are the same data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.configured import Kind, backbone_kinds, hashes, pinned
from cl2cm_jax.runtime.checksums import read_checked_json, write_checked_json
from cl2cm_jax.training.workdir import CONFIG_FILE

BUILT_ON = "built_on.json"
_CONTENT = "content:"  # of a fingerprint; those of earlier versions, of computed features, have no such mark


def fingerprint(corpora: Iterable[Corpus]) -> str:
    """Hash of the pictures or features that the data set holds, the captions and their pairing, in all splits."""
    return _CONTENT + _hash((corpus, corpus.content) for corpus in corpora)


def is_same_data(recorded: object, corpora: Iterable[Corpus]) -> bool:
    """Whether a fingerprint is that of these corpora; that of an earlier version is of the computed features."""
    if isinstance(recorded, str) and recorded.startswith(_CONTENT):
        return recorded == fingerprint(corpora)
    return recorded == _hash((corpus, "") for corpus in corpora)


def check_recorded_data(recorded: object, corpora: Iterable[Corpus], *, name: str) -> None:
    """Raises UserError if the data of a record, that of the run `name`, are not these; a run without one passes."""
    if recorded and not is_same_data(recorded, corpora):
        raise other_data(name)


def other_data(name: str) -> UserError:
    """The error of a run `name` whose data are not those that are read."""
    return UserError(
        f"{name} was trained on other data; use another --workdir, or give the pictures, features and captions that it "
        "had",
        id="other-data",
    )


def write_record(workdir: Path, config: ConfigDict, data: str, **more: object) -> None:
    """Writes what the run of a configuration was built on."""
    backbones = {kind: _backbone(config, kind) for kind in backbone_kinds(config)}
    record = {"format": 1, "data": data, **backbones, **more}
    write_checked_json(workdir / BUILT_ON, record)


def read_record(workdir: Path) -> dict[str, Any]:
    """What the run of a workdir was built on; {} for a run of an earlier version. Raises UserError if it is damaged."""
    path = workdir / BUILT_ON
    try:
        record = read_checked_json(
            path, fix="restore it, or delete it to go on without the check of data and backbones"
        )
        for kind in ("text", "vision"):
            entry = record.get(kind, {"path": "", "revision": "", "backbone": "", "files": {}})
            if not all(isinstance(entry[name], str) for name in ("path", "revision", "backbone")):
                raise ValueError(f"{kind} has an entry that is not text")
            if {type(hash) for hash in dict(entry["files"]).values()} - {str}:
                raise ValueError(f"{kind} has a hash that is not text")
        if "init" in record and not isinstance(record["init"]["model"], str):
            raise ValueError("init has a model that is not text")
        return record
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}); restore it, or delete it to go on without the "
            "check of data and backbones"
        ) from error


def as_recorded(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The configuration of a study of many runs in `workdir`, as `as_trained`; of a new one, hub ids at their commits.

    Raises:
      UserError: a backbone is not the one that earlier runs were trained on.
    """
    is_new = not _record_of_runs(workdir)
    return pinned(config) if is_new else as_trained(config, workdir, command="the same command with")


def record_inputs(workdir: Path, config: ConfigDict, corpora: Iterable[Corpus]) -> None:
    """Writes what the runs of a study are built on, or compares it with that of its earlier runs.

    Raises:
      UserError: they were trained on other data.
    """
    corpora = tuple(corpora)
    if record := _record_of_runs(workdir):
        check_recorded_data(record.get("data"), corpora, name=f"--workdir={workdir}")
    else:
        write_record(workdir, config, fingerprint(corpora))


def _record_of_runs(workdir: Path) -> dict[str, Any]:
    """The record of a study; {} before its first run, when nothing depends on it."""
    return read_record(workdir) if next(workdir.rglob(CONFIG_FILE), None) else {}


def as_trained(config: ConfigDict, workdir: Path, *, command: str = "") -> ConfigDict:
    """The configuration of a workdir with each hub id at the commit that it was trained on, its backbones checked.

    Args:
      config: the configuration.
      workdir: has the record.
      command: that names another place of a backbone, for the message; "" evaluates the workdir.

    Raises:
      UserError: a backbone is not the one that the run was trained on; names its folder, the file and the fix.
    """
    command = command or f"cl2cm train --mode=evaluate --workdir={workdir}"
    config, record = config.copy_and_resolve_references(), read_record(workdir)
    for kind in backbone_kinds(config):
        entry = record.get(kind)
        if entry and entry["backbone"] == config[kind].backbone:
            if _repository(config[kind].path) == _repository(entry["path"]):
                config[kind].path = hub_folder.at_revision(config[kind].path, entry["revision"])
            again = f"{command} --config.{kind}.path=FOLDER"
            _check_place(config, kind, entry, workdir, again)
            _check_files(config, kind, entry["files"], workdir, again)
    return config


def _backbone(config: ConfigDict, kind: Kind) -> dict[str, Any]:
    """A backbone by name, place and content; the revision is that of a hub id which `models.configured.pinned` set."""
    path = config[kind].path
    is_hub_id = bool(path) and hub_folder.is_hub_id(path)
    about = {"backbone": config[kind].backbone, "path": path, "is_hub_id": is_hub_id}
    revision = path.partition("@")[2] if is_hub_id else ""
    return {**about, "revision": revision, "files": hashes(config, kind)}


def _repository(path: str) -> str:
    """A path, or a hub id without its revision."""
    return path.partition("@")[0] if path and hub_folder.is_hub_id(path) else path


def _check_place(config: ConfigDict, kind: Kind, entry: dict[str, Any], workdir: Path, again: str) -> None:
    """Refuses a folder that is gone; "models/bert" would be taken for a hub id."""
    path = config[kind].path
    was_a_place = path == entry["path"] and not entry.get("is_hub_id")
    if path and not Path(path).exists() and (was_a_place or not hub_folder.is_hub_id(path)):
        raise UserError(
            f"config.{kind}.path={path!r}, the backbone of {workdir}, is not there; if it was moved, name its place: "
            f"{again}",
            id="other-backbone",
        )


def _check_files(config: ConfigDict, kind: Kind, files: dict[str, str], workdir: Path, again: str) -> None:
    path, field = config[kind].path, f"config.{kind}.path"
    found = hashes(config, kind)
    for name in (*files, *found):
        if files.get(name) != found.get(name):
            state = "is gone" if name not in found else "is new" if name not in files else "has changed"
            raise UserError(
                f"{field}={path!r}: {name} {state}, since {workdir} was trained (SHA-256 in its {BUILT_ON}); put the "
                f"old one back, or name the folder that has it: {again}; or train in another --workdir",
                id="other-backbone",
            )


def _hash(corpora: Iterable[tuple[Corpus, str]]) -> str:
    """Of corpora, each with the hash of its pictures or features; "": computed features stand for them."""
    digest = hashlib.sha256()
    for corpus, content in corpora:
        texts = [corpus.image_ids.tolist(), corpus.caption_text, *([content] if content else [])]
        digest.update(json.dumps(texts).encode("utf-8", "surrogatepass"))
        for array in (*(() if content else (corpus.vision,)), corpus.caption_image, corpus.caption_language):
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
