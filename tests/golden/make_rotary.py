"""Makes modernbert/ and qwen3/: two small random models of the reference implementation, with what they say.

How the committed files were made, in an environment of its own (the tests need no torch):

    pip install torch==2.14.1 transformers==5.24.0
    python tests/golden/make_rotary.py

Each folder holds config.json, model.safetensors and outputs.npz with
  ids, mask: (4, 24) int32 and bool, rows of 3 to 24 pieces, longer than the models' windows.
  states: (4, 24, d) float32, the reference's last hidden state, 0 at padding.
  gradient/NAME: of each tensor NAME of the file, of the sum of states * weights.
  weights: (4, 24, d) float32.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from make_bert import rows

HERE = Path(__file__).parent


def main() -> None:
    """Runs the reference models and writes the golden files beside this script."""
    import torch
    from transformers import ModernBertConfig, ModernBertModel, Qwen3Config, Qwen3Model

    sizes = {"vocab_size": 50, "num_hidden_layers": 4, "intermediate_size": 12, "max_position_embeddings": 24}
    marks = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    modern = {"hidden_size": 16, "num_attention_heads": 4, "local_attention": 7}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
    window = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}
    kinds = {
        "modernbert": (ModernBertConfig(**sizes, **marks, **modern, cls_token_id=1, sep_token_id=2), ModernBertModel),
        "qwen3": (Qwen3Config(**sizes, **marks, **heads, **window, hidden_size=16), Qwen3Model),
    }
    for name, (config, kind) in kinds.items():
        torch.manual_seed(0)
        model = kind(config).eval()
        for parameter in model.parameters():  # norms of a new model are 1, which would hide mistakes
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(HERE / name)
        (HERE / name / "generation_config.json").unlink(missing_ok=True)
        ids, mask = rows(config.vocab_size, config.pad_token_id)
        states = model(torch.tensor(ids.astype(np.int64)), torch.tensor(mask.astype(np.int64))).last_hidden_state
        weights = np.random.default_rng(1).normal(size=states.shape).astype(np.float32) * mask[..., None]
        (states * torch.tensor(weights)).sum().backward()
        gradients = {f"gradient/{name}": parameter.grad.numpy() for name, parameter in model.named_parameters()}
        states = states.detach().numpy() * mask[..., None]
        np.savez_compressed(
            HERE / name / "outputs.npz", ids=ids, mask=mask, states=states, weights=weights, **gradients
        )
    print("written with", sys.version.split()[0], torch.__version__)


if __name__ == "__main__":
    main()
