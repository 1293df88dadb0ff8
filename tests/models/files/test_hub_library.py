"""transformers is imported where a model folder needs it, and in silence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from support.tiny_models import write_tiny_bert

from cl2cm_jax.models.files.hub_library import model_types

CODE = """
import sys
import cl2cm_jax.main, cl2cm_jax.search.__main__
from cl2cm_jax.models.configured import text_backbone, vision_backbone
text_backbone("bert", sys.argv[1]).tokenizer(max_tokens=8)(["red car"])
print("transformers" in sys.modules)
for folder in sys.argv[2:]:
    vision_backbone("clip_vit", folder)
    print("transformers" in sys.modules)
"""


def test_it_is_imported_for_an_image_processor_that_leaves_entries_out(tmp_path: Path) -> None:
    """Otherwise it is not, and so neither is torch, which it imports where that is installed."""
    whole = Path(__file__).parents[2] / "golden" / "clip"
    part = shutil.copytree(whole, tmp_path / "part")
    entries = json.loads((part / "preprocessor_config.json").read_text())
    del entries["rescale_factor"]
    (part / "preprocessor_config.json").write_text(json.dumps(entries))
    arguments = [sys.executable, "-c", CODE, str(write_tiny_bert(tmp_path / "bert")), str(whole), str(part)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]
    assert not done.stderr


def test_models_of_texts_and_of_pictures() -> None:
    text, vision = model_types("text"), model_types("vision")
    assert {"gemma3_text", "t5", "mpnet", "clip"} <= text and not {"dinov2", "vit", "mine"} & text
    assert {"dinov2", "vit", "swin", "clip"} <= vision and not {"gemma3_text", "t5", "mine"} & vision
