"""Licences of what a bundle holds from others, as far as packages and model folders state them."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.config import has_vision_backbone
from cl2cm_jax.export.render import render
from cl2cm_jax.models.configured import text_spec, vision_spec
from cl2cm_jax.models.credits import Credits

CODE = "apache-2.0"
CODE_LICENCE = "LICENSE"
NOTICES = "THIRD_PARTY_NOTICES.md"

# what the trained part has seen; the images and captions are not in the bundle
_DATA = {
    "emoji": "OpenMoji drawings, CC BY-SA 4.0, © OpenMoji; emoji names of Unicode CLDR, Unicode License v3",
    "fluent": "Fluent Emoji, MIT, © Microsoft; emoji names of Unicode CLDR, Unicode License v3",
    "stamps": "Tux Paint's stamps and their captions, GPL-2, © Bill Kendrick and contributors",
    "captions": "pictures and captions of whoever trained it, who knows their licences",
}


def data_licence(config: ConfigDict) -> str:
    """What the training data are, and under which licence."""
    return _DATA.get(config.data.name, f"{config.data.name}, under the terms of its publishers")


def backbone_credits(config: ConfigDict) -> dict[str, Credits]:
    """Credits of the configured backbones: "text" and, unless features are precomputed, "vision"."""
    t, v = config.text, config.vision
    found = {"text": text_spec(t.backbone).credits(t.path or None)}
    if has_vision_backbone(config):
        found["vision"] = vision_spec(v.backbone).credits(v.path or None)
    return found


def common_licence(credits: Mapping[str, Credits]) -> str:
    """The licence of code and backbones if all have the same, otherwise "other"."""
    return CODE if {credit.licence for credit in credits.values()} <= {CODE} else "other"


def write_licences(out: Path, config: ConfigDict, credits: Mapping[str, Credits]) -> None:
    """Writes LICENSE (of the code and the trained part), the backbones' licence texts, and a table of them."""
    (out / CODE_LICENCE).write_text(_code_licence(), encoding="utf-8")
    texts: dict[str, list[str]] = {}
    for part, credit in credits.items():
        places = {text: out / "licences" / part / text.name for text in credit.texts}
        for text, place in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(text, place)
        texts[part] = [place.relative_to(out).as_posix() for place in places.values()]
    values = {"credits": credits, "texts": texts, "code_licence": CODE_LICENCE, "data_licence": data_licence(config)}
    (out / NOTICES).write_text(render("notices", **values), encoding="utf-8")


def _code_licence() -> str:
    """The licence text of this package, from where it is installed or from its source."""
    beside = Path(__file__).resolve().parents[2] / CODE_LICENCE
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    text = importlib.metadata.distribution("cl2cm-jax").read_text(f"licenses/{CODE_LICENCE}")
    return text or "Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0\n"
