"""The training step's loss equals that of the same networks and terms in PyTorch, before and after some updates."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.paper_step import Sizes, batch_of, cached, made_up, make_step  # noqa: E402
from benchmarks.torch_peer import TorchStep  # noqa: E402

pytestmark = pytest.mark.slow


def test_losses_stay_equal_over_updates():
    sizes = Sizes(batch=8, tokens=12, layers=3, first=1, hidden=64, heads=4, intermediate=96, vocabulary=200)
    step = make_step(sizes, dtype="float32", remat=False, scan=True)
    captions = made_up(sizes, sizes.batch)
    mask = captions.mask.copy()
    for row, length in enumerate([5, 12, 3, 8, 12, 9, 7, 4]):
        mask[:, row, length:] = False
    captions = captions._replace(mask=mask)
    text = cached(step, captions)
    batch = step.put(batch_of(text, captions, np.arange(8), tokens=12, multiple=0))
    state, peer = step.train.init(), TorchStep(step, threads=1)
    for number in range(3):
        state, terms = step.train.step(state, batch, number)
        theirs = peer(captions.ids, captions.mask, captions.vision)
        np.testing.assert_allclose(theirs, float(terms["total"]), rtol=1e-4 if number == 0 else 2e-3)
