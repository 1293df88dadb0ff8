"""Random small models of architectures that this package does not know, as transformers and sentence-transformers save
them (`make test-peers` installs these)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from support.tiny_models import write_tiny_bert

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
TEXT_MODELS: dict[str, tuple[dict[str, Any], str]] = {
    # class of transformers -> sizes, and the marks around a text
    "DistilBert": ({"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24}, "[CLS] $A [SEP]"),
    "MPNet": (SMALL, "[CLS] $A [SEP]"),
    "DebertaV2": (SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, "[CLS] $A [SEP]"),
    "T5Encoder": ({"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}, "$A [SEP]"),
    "Gemma3Text": (SMALL | {"num_key_value_heads": 2, "head_dim": 4}, "[CLS] $A"),
    "GPT2": ({"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 40}, "$A"),
}
VISION_MODELS: dict[str, dict[str, Any]] = {
    "Dinov2": SMALL | {"image_size": 28, "patch_size": 7, "mlp_ratio": 2},
    "ViT": SMALL | {"image_size": 32, "patch_size": 8},
    "Swin": {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 4,
    },
    "ConvNext": {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "patch_size": 4},
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}


def write_text_model(name: str, folder: Path) -> Any:
    """Writes model and tokenizer of `TEXT_MODELS`; returns the model."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    sizes, marks = TEXT_MODELS[name]
    config = getattr(transformers, f"{name.removesuffix('Encoder')}Config")(vocab_size=50, pad_token_id=0, **sizes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(config).eval()
    _randomise(model)
    model.save_pretrained(folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(write_tiny_bert(folder / "bert") / "tokenizer.json"))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(  # pyright: ignore
        single=marks, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=24, **special)
    fast.save_pretrained(folder)
    for file in (folder / "bert").iterdir():
        file.unlink()
    (folder / "bert").rmdir()
    return model


def write_vision_model(name: str, folder: Path) -> Any:
    """Writes model and image processor of `VISION_MODELS`; returns the model."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**VISION_MODELS[name])).eval()
    _randomise(model)
    model.save_pretrained(folder)
    side = VISION_MODELS[name].get("image_size", 32)
    kind, size = (
        ("ConvNext", {"shortest_edge": side}) if name == "ConvNext" else ("ViT", {"height": side, "width": side})
    )
    getattr(transformers, f"{kind}ImageProcessorPil")(size=size).save_pretrained(folder)
    return model


def _randomise(model: Any) -> None:
    import torch  # pyright: ignore[reportMissingImports]

    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
