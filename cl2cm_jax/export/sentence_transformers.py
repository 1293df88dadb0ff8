"""A stock text tower as the modules of sentence-transformers: transformer, pooling, and the student's linear map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.models.configured import text_prompt
from cl2cm_jax.models.files.prompts import FILE
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.hub_folder import write_json
from cl2cm_jax.models.pretrained import write_safetensors

_MODELS = "sentence_transformers.models"
_MODULES = ("Transformer", "Pooling", "Normalize", "Dense", "Normalize")


def write_modules(out: Path, config: ConfigDict, student: Params) -> None:
    """Writes modules.json and the modules after the backbone, which is in `out` with its pooling.

    There are two normalisations, for the backbone's sentence vector has length 1 before the student's map.
    """
    places = ["", *(f"{i}_{name}" for i, name in enumerate(_MODULES) if i)]
    modules = [
        {"idx": i, "name": str(i), "path": place, "type": f"{_MODELS}.{name}"}
        for i, (name, place) in enumerate(zip(_MODULES, places, strict=True))
    ]
    for place in places[2:]:
        (out / place).mkdir()
    write_json(out / "modules.json", modules)
    write_json(out / "sentence_bert_config.json", {"max_seq_length": config.text.max_tokens, "do_lower_case": False})
    prompt = text_prompt(config)
    prompts = {"prompts": {"query": prompt}, "default_prompt_name": "query"} if prompt else {"prompts": {}}
    write_json(out / FILE, {"similarity_fn_name": "cosine"} | prompts)
    head = student["text"]["project_sentence"]
    inputs, outputs = head["kernel"].shape
    identity = "torch.nn.modules.linear.Identity"
    dense = {"in_features": inputs, "out_features": outputs, "bias": True, "activation_function": identity}
    write_json(out / places[3] / "config.json", dense)
    tensors = {"linear.weight": np.asarray(head["kernel"]).T, "linear.bias": np.asarray(head["bias"])}
    write_safetensors(out / places[3] / "model.safetensors", tensors)
    for place in (places[2], places[4]):
        write_json(out / place / "config.json", {})
