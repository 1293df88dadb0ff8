"""BERT and XLM-R compared with transformers and sentence-transformers (`make test-peers` installs them)."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from cl2cm_jax.features.encoders import TextEncoder
from cl2cm_jax.models.configured import text_backbone

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

SENTENCES = ["a red car", "", "Zwei Hunde schlafen am Straßenrand, 犬!", "sea and sand " * 60]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", ["Bert", "XLMRoberta"])
def test_states_equal_transformers(family: str, seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    heads = int(random.integers(1, 5))
    positions = int(random.integers(20, 60))
    config = getattr(transformers, f"{family}Config")(
        vocab_size=int(random.integers(30, 90)),
        hidden_size=heads * int(random.integers(2, 9)),
        num_hidden_layers=int(random.integers(1, 5)),
        num_attention_heads=heads,
        intermediate_size=int(random.integers(5, 50)),
        max_position_embeddings=positions,
        type_vocab_size=int(random.integers(1, 3)),
        hidden_act=str(random.choice(["gelu", "relu", "gelu_new"])),
        layer_norm_eps=float(random.choice([1e-12, 1e-5])),
    )
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}Model")(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path)
    backbone = text_backbone("bert", tmp_path)
    length = backbone.max_tokens
    assert length is not None
    mask = np.arange(length) < random.integers(1, length + 1, (6, 1))
    mask[0] = True  # as long as the position table
    ids = np.where(mask, random.integers(5, config.vocab_size, mask.shape), config.pad_token_id).astype(np.int32)
    with torch.no_grad():
        theirs = model(torch.tensor(ids.astype(np.int64)), torch.tensor(mask.astype(np.int64))).last_hidden_state
    ours = jax.jit(backbone.apply)(backbone.params, ids, mask)
    np.testing.assert_allclose(ours.words, theirs.numpy() * mask[..., None], atol=1e-5)


def test_sentences_equal_sentence_transformers(minilm: Path) -> None:
    peer = pytest.importorskip("sentence_transformers").SentenceTransformer(str(minilm), device="cpu")
    ours, *_ = TextEncoder(text_backbone("bert", minilm), max_tokens=peer.max_seq_length)(SENTENCES)
    np.testing.assert_allclose(ours, peer.encode(SENTENCES), atol=1e-5)
