import numpy as np
import pytest

from cl2cm_jax.data.packing import WORTH, pack


def contents(plan: dict[str, np.ndarray]) -> list[list[int]]:
    """The places of each group, by what lies there."""
    return [[int(cell) for cell in group.reshape(-1)] for group in plan["take"]]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_every_token_lies_in_one_place_and_is_found_there(seed: int, groups: int) -> None:
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 13, (16, 3))
    plan = pack(lengths, length=12, groups=groups)
    take, put = plan["take"], plan["put"].reshape(groups, -1, 12)
    assert take.shape[0] == groups and take.shape[2] == 12 and take.dtype == put.dtype == np.int32
    assert 0 < take.shape[1] <= WORTH * 48 // groups
    for group, (cells, by_caption) in enumerate(zip(take, put, strict=True)):
        tokens = [(c, t) for c, n in enumerate(lengths.reshape(groups, -1)[group]) for t in range(n)]
        assert sorted(cells[cells >= 0].tolist()) == [c * 12 + t for c, t in tokens]
        for caption, token in tokens:
            place = by_caption[caption, token]
            assert cells.reshape(-1)[place] == caption * 12 + token
            assert place % 12 == by_caption[caption, 0] % 12 + token  # a caption lies in one row, in order


def test_rows_are_filled() -> None:
    lengths = np.random.default_rng(0).normal(17, 6, (128, 2)).clip(6, 40).astype(int)
    rows = pack(lengths, length=40, groups=1)["take"].shape[1]
    assert lengths.sum() / (rows * 40) > 0.9
    shapes = {
        pack(np.random.default_rng(seed).normal(17, 6, (128, 2)).clip(6, 40).astype(int), length=40, groups=1)[
            "take"
        ].shape
        for seed in range(50)
    }
    assert len(shapes) <= 2, "each shape is a program"


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([[8, 8], [8, 8]], 0),  # nothing to save
        ([[8, 8], [8, 0]], 3),
        ([[9, 1], [1, 1]], 2),  # cut to the length of a row
        ([[0, 0], [0, 0]], 1),
        ([[4, 4], [4, 4]], 2),
    ],
)
def test_how_many_rows(lengths: list[list[int]], rows: int) -> None:
    plan = pack(np.array(lengths), length=8, groups=1)
    assert plan["take"].shape == (1, rows, 8) and plan["put"].shape == (2, 2, 8)
    assert rows or not plan["put"].any()
    assert (plan["take"] >= 0).sum() == (np.minimum(lengths, 8).sum() if rows else 0)
