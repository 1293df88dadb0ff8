"""The objective of CL2CM: embeddings -> loss terms by name (steps/terms/) -> total.

    total = source * contrastive(V, S) + target * contrastive(V, T)            student
          + sentence * contrastive(S~, T~) + word * alignment(words~)          teacher
          + transfer * KL(relations of the teacher || relations of the student)

and, with its own weight, each term that `config.terms` names. Source: paper for the teacher's two levels and the
transfer; NRCCR for the student's two terms. Their forms and hyperparameters are config fields (config/fields.py).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cl2cm_jax.config.plugins import load_plugin
from cl2cm_jax.config.terms import PACKAGE, term_modules
from cl2cm_jax.maths import blockwise, confidence
from cl2cm_jax.maths.confidence import Calibration
from cl2cm_jax.maths.masking import Term
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import Networks
from cl2cm_jax.steps.embeddings import Batch, BatchIds, Embeddings, HeldOut
from cl2cm_jax.steps.pair_terms import Scalars, TermInputs, tiles_of
from cl2cm_jax.steps.pair_terms_blockwise import in_one_sweep
from cl2cm_jax.steps.word_scores import relation


class Objective(NamedTuple):
    """The losses of a configuration; `mesh` matters to `contrastive.form="blockwise"` alone."""

    config: ConfigDict
    networks: Networks
    mesh: Mesh | None = None

    def __call__(
        self, embeddings: Embeddings, params: Params, batch: Batch, *, weights: Scalars, calibration: Calibration
    ) -> tuple[jax.Array, Scalars]:
        """Computes the total and every term that has a weight by name, all () fp32.

        Args:
          embeddings: of the whole batch, also when gradients are accumulated over micro-batches.
          params: for what the losses themselves learn: temperature, bias, pointer.
          batch: identities, validity and the backbone's words.
          weights: of the terms at this step, by name; a term without one is not computed.
          calibration: pair scores -> confidence, by language.

        Raises:
          UserError: a module that `config.terms` names does not exist or defines no `term`.
        """
        config, ids = self.config, BatchIds.of(batch)
        teacher = HeldOut.of(embeddings, ids)
        trusted, logged = jnp.ones(ids.pair.shape), {}
        if "target" in weights and config.confidence.kind != "none":
            trusted, scores = pair_confidence(self, teacher, batch, calibration)
            logged["confidence"] = _mean_over(trusted, ids.target_is_valid)
            language = batch["target_language"].reshape(-1)
            for k in range(len(calibration.weight)):  # -1 of a language that is not in the batch
                of_one = ids.target_is_valid & (language == k)
                logged[f"confidence/{k}"] = jnp.where(of_one.any(), _mean_over(trusted, of_one), -1.0)
            logged["pair_score"] = _mean_over(scores, ids.target_is_valid)
        relations = config.transfer.relations if "transfer" in weights else ()
        words = None
        if "cross" in relations and config.transfer.word:
            words = relation(config, teacher, embeddings, batch, ids, mesh=self.mesh)
        inputs = TermInputs(
            config=config,
            networks=self.networks,
            mesh=self.mesh,
            params=params,
            batch=batch,
            embeddings=embeddings,
            ids=ids,
            teacher=teacher,
            confidence=trusted,
            names=frozenset(weights).union(relations),
            words=words,
        )
        if config.contrastive.form == "blockwise":
            inputs = inputs._replace(precomputed=in_one_sweep(inputs))
        terms = {}
        for name, module in term_modules(config).items():
            if name not in weights:
                continue
            if name in inputs.precomputed:
                terms[name] = inputs.precomputed[name]
                continue
            found = load_plugin(PACKAGE, module, "term", field="config.terms")(inputs)
            terms[name], more = found if isinstance(found, tuple) else (found, {})
            logged |= more
        total = sum((weights[name] * value for name, value in terms.items()), jnp.zeros(()))
        return total, {"total": total, **terms, **logged, "temperature": jnp.exp(params["student"]["log_temperature"])}


def pair_confidence(
    objective: Objective, teacher: HeldOut, batch: Batch, calibration: Calibration
) -> tuple[jax.Array, jax.Array]:
    """Returns the weight of every pair in contrastive(V, T) and its standard score, both (B*K,)."""
    config, captions = objective.config, batch["target_is_valid"].shape[1]
    per_language = teacher.target_columns.reshape(-1, captions, teacher.target_columns.shape[-1])
    valid = batch["target_is_valid"] & batch["is_valid"][:, None]
    form, tiles = confidence, {}
    if config.contrastive.form == "blockwise":
        form, tiles = blockwise, tiles_of(config, objective.mesh)
        tiles["block"] = max(1, tiles["block"] // captions)  # languages side by side

    def of_one(columns: jax.Array, valid: jax.Array, language: jax.Array) -> tuple[jax.Array, jax.Array]:
        sides = teacher.source_rows, columns
        scores = form.standard_scores(*sides, is_valid=valid, **tiles)
        if config.confidence.kind == "posterior":
            return confidence.posterior(scores, language, calibration), scores
        temperature = config.transfer.temperature
        return form.softmax_confidence(*sides, temperature=temperature, is_valid=valid, **tiles), scores

    trusted, scores = jax.vmap(of_one, in_axes=1, out_axes=1)(per_language, valid, batch["target_language"])
    return trusted.reshape(-1), scores.reshape(-1)


def _mean_over(x: jax.Array, mask: jax.Array) -> jax.Array:
    return Term(jnp.where(mask, x, 0.0).sum(), mask.sum().astype(jnp.float32)).mean
