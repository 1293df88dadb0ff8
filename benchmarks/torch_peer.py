"""The same networks, losses, optimizer and weights in PyTorch, on transformers' BertModel.

As usual in PyTorch, the whole BERT runs, including its frozen layers (autograd skips them in the backward pass), and
captions are padded to one length.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F
from flax.traverse_util import flatten_dict
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from benchmarks.paper_step import Sizes, Step
from cl2cm_jax.models.backbones.text import bert

_TAU, _TEACHER_TAU, _TRANSFER_TAU = 0.07, 0.05, 0.05
_BETA, _ITERATIONS = 0.5, 50


class Tower(nn.Module):
    """LayerNorm, linear, positions, one attention block, linear, masked mean, normalisation."""

    def __init__(self, features: int, hidden: int, heads: int, dim: int, positions: int):
        super().__init__()
        self.norm, self.project = nn.LayerNorm(features, eps=1e-6), nn.Linear(features, hidden)
        self.positions = nn.Parameter(torch.zeros(positions, hidden))
        self.attention_norm, self.mlp_norm = nn.LayerNorm(hidden, eps=1e-6), nn.LayerNorm(hidden, eps=1e-6)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 2 * hidden), nn.Linear(2 * hidden, hidden)
        self.project_words = nn.Linear(hidden, dim)
        self.heads = heads

    def forward(self, states: Tensor, tokens: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Maps states (B, L, d) to sentences (B, D) and words (B, L, D); `tokens` and `words` (B, L) are masks."""
        x = self.project(self.norm(states)) + self.positions[: states.shape[1]]
        q, k, v = self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        split = (*x.shape[:2], self.heads, -1)
        q, k, v = (part.reshape(split).transpose(1, 2) for part in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=words[:, None, None, :])
        x = x + self.out(attended.transpose(1, 2).reshape(x.shape))
        x = x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))
        projected = self.project_words(x)
        mean = (projected * words[..., None]).sum(1) / words.sum(1, keepdim=True).clamp(min=1)
        return F.normalize(mean, dim=-1), projected


class Network(nn.Module):
    """A BERT with its lower layers frozen, and a tower."""

    def __init__(self, sizes: Sizes, dim: int):
        super().__init__()
        c = BertConfig(
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.hidden,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            intermediate_size=sizes.intermediate,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            max_position_embeddings=sizes.bert.positions,
            attn_implementation="sdpa",
        )
        self.bert = BertModel(c, add_pooling_layer=False)
        for part in (self.bert.embeddings, *self.bert.encoder.layer[: sizes.first]):
            part.requires_grad_(False)
        self.tower = Tower(sizes.hidden, sizes.hidden, 8, dim, sizes.tokens)

    def forward(self, ids: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sentences, words and the mask of words (without the first and last token)."""
        place = torch.arange(ids.shape[1])
        words = tokens & (place > 0) & (place < tokens.sum(1, keepdim=True) - 1)
        states = self.bert(input_ids=ids, attention_mask=tokens.long()).last_hidden_state
        return *self.tower(states, tokens, words), words


class Peer(nn.Module):
    """Student and teacher, and all five terms."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.student, self.teacher = Network(sizes, 1536), Network(sizes, 512)
        self.vision_norm, self.vision_project = nn.LayerNorm(512, eps=1e-6), nn.Linear(512, 1536)
        self.log_temperature = nn.Parameter(torch.tensor(float(np.log(_TAU))))

    def forward(self, ids: Tensor, tokens: Tensor, vision: Tensor) -> Tensor:
        """The total loss of ids (2, B, L), source and target, masks alike, and vision (B, 512)."""
        count = ids.shape[1]
        flat = (ids.reshape(2 * count, -1), tokens.reshape(2 * count, -1))
        v = F.normalize(self.vision_project(self.vision_norm(vision)), dim=-1)
        s, t = self.student(*flat)[0].split(count)
        sentences, projected, words = self.teacher(*flat)
        s_, t_ = sentences.split(count)
        tau = self.log_temperature.exp()
        total = infonce(v, s, tau) + infonce(v, t, tau) + infonce(s_, t_, torch.tensor(_TEACHER_TAU))
        total = total + transport(*projected.split(count), *words.split(count))
        with torch.no_grad():
            relation = s_ @ t_.T / _TRANSFER_TAU
        scores = v @ t.T / _TRANSFER_TAU
        return total + 0.5 * (relational_kl(relation, scores) + relational_kl(relation.T, scores.T))


def infonce(x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
    """Mean of both directions."""
    logits, own = x @ y.T / tau, torch.arange(len(x))
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))


def relational_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL of each row, mean over rows."""
    return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)


def transport(s: Tensor, t: Tensor, s_mask: Tensor, t_mask: Tensor) -> Tensor:
    """<plan, cost> of words (B, L, D), averaged over pairs; the plan is computed by IPOT without gradient."""
    cost = 1 - F.normalize(s, dim=-1) @ F.normalize(t, dim=-1).transpose(1, 2)
    with torch.no_grad():
        mu = s_mask / s_mask.sum(1, keepdim=True).clamp(min=1)
        nu = t_mask / t_mask.sum(1, keepdim=True).clamp(min=1)
        real = (mu > 0)[:, :, None] & (nu > 0)[:, None, :]
        kernel = torch.where(real, (-cost / _BETA).exp(), 0)
        plan, sigma = real.float(), nu
        for _ in range(_ITERATIONS):
            q = kernel * plan
            delta = mu / (q @ sigma[..., None])[..., 0].clamp(min=1e-30)
            sigma = nu / (delta[:, None] @ q)[:, 0].clamp(min=1e-30)
            plan = delta[:, :, None] * q * sigma[:, None]
    return (plan * cost).sum((1, 2)).mean()


class TorchStep:
    """One training step in PyTorch; AdamW on the trained parameters."""

    def __init__(self, step: Step, *, threads: int):
        torch.set_num_threads(threads)
        self.model = Peer(step.sizes).train()
        _copy_weights(self.model, step)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)

    def __call__(self, ids: np.ndarray, mask: np.ndarray, vision: np.ndarray) -> float:
        """Runs a step; returns its loss."""
        self._optimizer.zero_grad()
        loss = self.model(torch.from_numpy(ids).long(), torch.from_numpy(mask), torch.from_numpy(vision))
        loss.backward()
        self._optimizer.step()
        return loss.item()


def _copy_weights(model: Peer, step: Step) -> None:
    """Copies our initial parameters, renamed and transposed for torch."""
    params = jax.device_get(step.train.init()["params"])
    backbone = _bert_state(jax.device_get(step.backbone), step.sizes)
    state = {f"{network}.bert.{name}": array for network in ("student", "teacher") for name, array in backbone.items()}
    towers = {
        "student": params["student"]["text"],
        "teacher": jax.tree.map(lambda x: x[0], params["teacher"]["tower"]),
    }
    for network, tower in towers.items():
        encoder = tower["encode_words"]
        parts = {**encoder, **encoder["block"], "project_words": tower["project_words"]}
        parts.pop("block")
        state |= _torch_state({f"{network}.tower.{name}": value for name, value in parts.items()})
    vision = params["student"]["vision"]
    state |= _torch_state({f"vision_{name}": value for name, value in vision.items()})
    state["log_temperature"] = torch.from_numpy(np.array(params["student"]["log_temperature"]))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing), (missing, unexpected)


def _torch_state(tree: dict[str, Any]) -> dict[str, Tensor]:
    names = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    state = {}
    flat: dict[Any, Any] = flatten_dict(tree)
    for path, array in flat.items():
        *outer, last = path
        name = ".".join([*outer, names[last]]) if last in names else ".".join(path)
        state[name] = torch.from_numpy(np.array(array.T if last == "kernel" else array, order="C"))
    return state


def _bert_state(params: dict[str, Any], sizes: Sizes) -> dict[str, Tensor]:
    flat: dict[str, Any] = flatten_dict(params, sep="/")

    def torch_array(ours: str, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array.T if ours.endswith("kernel") else array, order="C"))

    state = {name: torch_array(ours, flat[ours]) for ours, name in bert.EMBEDDINGS.items()}
    for ours, name in bert.LAYER.items():
        for i in range(sizes.layers):
            state[f"encoder.layer.{i}.{name}"] = torch_array(ours, flat[f"layers/{ours}"][i])
    return state
