import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.studies.tpu_estimate.chips import CHIPS, GIB, HOP, chip, human
from cl2cm_jax.studies.tpu_estimate.cost import Collective, Event, Work
from cl2cm_jax.studies.tpu_estimate.largest import LIMIT, largest
from cl2cm_jax.studies.tpu_estimate.roofline import seconds

V5E = CHIPS["v5e"]


def test_chip_figures_have_sources_and_an_unknown_chip_is_refused():
    for one in CHIPS.values():
        assert one.source.startswith("https://") and one.peak > one.bandwidth > one.link and one.hbm > 15 * GIB
    assert chip("v6e") is CHIPS["v6e"]
    with pytest.raises(UserError, match="v9z.*v5e, v5p, v6e"):
        chip("v9z")
    assert human(GIB) == "1.00 GiB" and human(5 * 1024**2) == "5 MiB"


def test_collective_times_follow_from_link_speed_and_hops():
    def took(kind: str, group: int = 16, sides: tuple[int, ...] = (4, 4)) -> float:
        return V5E.exchange(Collective(kind, 10**9, group, "1", overlaps=False), sides)

    assert took("all-gather") == pytest.approx(15 / 16 * 1e9 / 100e9 + 6 * HOP)  # two links, corner to corner
    assert took("all-reduce") == pytest.approx(2 * took("all-gather"))
    assert took("reduce-scatter") == took("all-gather")
    assert took("all-gather", group=1) == 0
    assert took("all-gather", 256, (16, 16)) == pytest.approx(255 / 256 * 1e9 / 100e9 + 16 * HOP)  # rings
    assert took("collective-permute") == pytest.approx(1e9 / 50e9 + HOP)
    assert took("all-to-all", 256, (16, 16)) > took("all-to-all")


def test_work_between_start_and_end_hides_a_collective():
    gather = Collective("all-gather", 10**9, 16, "7", overlaps=True)
    takes = V5E.exchange(gather, (4, 4))
    half = Event(Work(flops=1, passes=int(takes / 2 * V5E.peak), size=0))
    start, end = Event(begins=(gather,)), Event(ends=("7",))

    def exposed(*schedule: Event) -> float:
        time = seconds(schedule, V5E, (4, 4))
        assert time.exchange == pytest.approx(takes)
        return time.exposed / takes

    assert exposed(half, start, end) == pytest.approx(1)
    assert exposed(start, half, end) == pytest.approx(0.5)
    assert exposed(start, half, half, half, end) == pytest.approx(0)
    assert exposed(start, half) == pytest.approx(0.5)  # it ends with the program
    assert exposed(start, Event(times=2, body=(half,)), end) == pytest.approx(0)
    blocking = Event(begins=(gather._replace(overlaps=False),))
    assert exposed(half, blocking, half) == pytest.approx(1)


def test_an_instruction_takes_the_longer_of_compute_and_memory_time():
    products = Event(Work(passes=int(V5E.peak), size=int(V5E.bandwidth / 2)))
    memory = Event(Work(passes=int(V5E.peak / 4), size=int(3 * V5E.bandwidth)))
    time = seconds((products, Event(times=2, body=(memory,))), V5E, (2, 4))
    assert time.step == pytest.approx(7) and time.bound == "HBM"
    assert (time.products, time.memory) == (pytest.approx(1), pytest.approx(6))


@pytest.mark.parametrize("start", [1, 40, 128, 5000])
@pytest.mark.parametrize("bend", [0, 3])
def test_the_largest_batch_is_found_in_few_compilations(start: int, bend: int):
    tried = []

    def needed(batch: int) -> int:  # linear, or with a kink, as compilers save memory when it is scarce
        tried.append(batch)
        return 1000 + 7 * batch + (bend * (batch - 300) if batch > 300 else 0)

    capacity = 5000
    best = max(batch for batch in range(8, 1000, 8) if 1000 + 7 * batch + bend * max(batch - 300, 0) <= capacity)
    assert largest(needed, capacity=capacity, start=start, unit=8) == best
    assert len(tried) == len(set(tried)) <= 12


def test_the_search_ends_if_nothing_fits_and_if_everything_fits():
    assert largest(lambda batch: 10**9, capacity=1, start=64, unit=8) == 0
    assert largest(lambda batch: 1, capacity=10, start=64, unit=8) == LIMIT
