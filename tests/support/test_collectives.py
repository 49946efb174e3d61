"""What ranks tell each other, in forked processes: plain values, states, sums with the same bits everywhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rank_processes import in_ranks
from torch import Tensor, nn

from narfx.support.collectives import (
    Crew,
    average_buffers,
    average_gradients,
    broadcast,
    differing,
    equalise,
    gather,
    share_state,
)
from narfx.support.ranks import Ranks

rank_processes_first = True

CASES = 12


def test_plain_values_and_states_reach_all_ranks() -> None:
    def work(ranks: Ranks) -> Any:
        mine = {"rank": ranks.rank, "text": "ä" * ranks.rank, "numbers": [0.1 + ranks.rank, math.inf, None]}
        state = {"weight": torch.full((2, 3), 0.1), "epoch": 7, "none": None} if ranks.first else "ignored"
        shared = share_state(ranks, state)
        return (
            gather(ranks, mine),
            broadcast(ranks, mine),
            shared["weight"].tolist(),
            shared["epoch"],
            gather(ranks, [])[0],
            broadcast(ranks, None),
        )

    found = in_ranks(3, work)
    assert found[0] == found[1] == found[2]
    values, sent, weight, epoch, empty, nothing = found[0]
    assert [value["text"] for value in values] == ["", "ä", "ää"]
    assert (sent["rank"], sent["numbers"]) == (0, [0.1, math.inf, None])
    assert (weight, epoch, empty, nothing) == (torch.full((2, 3), 0.1).tolist(), 7, [], None)


def drawn(case: int, rank: int) -> tuple[list[Tensor | None], float, int]:
    """Gradients of five parameters, some of them missing, a loss, and a number of images."""
    generator = torch.Generator().manual_seed(1000 * case + rank)
    shapes = [(3, 4), (5,), (), (2, 3, 3, 1), (4,)]
    used = [bool(torch.rand((), generator=generator) < 0.6) and index < 4 for index in range(5)]
    gradients = [
        torch.randn(shape, generator=generator) if has else None for shape, has in zip(shapes, used, strict=True)
    ]
    return gradients, float(torch.rand((), generator=generator)), 1 + case % 3 + (rank if case % 2 else 0)


@pytest.mark.parametrize("size", [2, 3])
def test_gradients_are_averaged_over_the_images_of_the_ranks_that_have_them(size: int) -> None:
    def work(ranks: Ranks) -> list[Any]:
        found = []
        for case in range(CASES):
            gradients, loss, images = drawn(case, ranks.rank)
            shapes = [(3, 4), (5,), (), (2, 3, 3, 1), (4,)]
            parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            mean = average_gradients(ranks, parameters, loss, images)
            found.append([mean, [None if p.grad is None else p.grad.tolist() for p in parameters]])
        return found

    results = in_ranks(size, work)
    assert all(result == results[0] for result in results)  # the same bits on all ranks
    for case, (mean, averaged) in enumerate(results[0]):
        draws = [drawn(case, rank) for rank in range(size)]
        images = sum(n for *_, n in draws)
        assert mean == pytest.approx(sum(loss * n for _, loss, n in draws) / images)
        for index, got in enumerate(averaged):
            having = [(one, n) for gradients, _, n in draws if (one := gradients[index]) is not None]
            if not having:
                assert got is None
                continue
            total = torch.stack([gradient.double() * n for gradient, n in having]).sum(0)
            expected = total / sum(n for _, n in having)
            torch.testing.assert_close(torch.tensor(got, dtype=torch.float64), expected, rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_nan_on_one_rank_is_nan_on_all() -> None:
    means = in_ranks(2, lambda ranks: average_gradients(ranks, [], math.nan if ranks.rank else 1.0, 4))
    assert all(map(math.isnan, means))


def test_weights_become_those_of_rank_0_and_running_averages_the_mean() -> None:
    def work(ranks: Ranks) -> Any:
        torch.manual_seed(ranks.rank)
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.BatchNorm2d(2))
        own = next(net.parameters()).tolist()
        mean, _, number, _, variance, _ = net.buffers()
        mean.fill_(float(ranks.rank + 1))
        number.fill_(5 + ranks.rank)
        variance.fill_(0.1)
        average_buffers(ranks, net)
        averaged = [buffer.tolist() for buffer in net.buffers()]
        equalise(ranks, net)
        return own, next(net.parameters()).tolist(), averaged

    found = in_ranks(3, work)
    assert found[1][0] != found[0][0]
    assert [weight for _, weight, _ in found] == [found[0][0]] * 3
    mean, _, number, *_, same, _ = found[0][2]
    assert all(averaged == found[0][2] for *_, averaged in found)
    assert (mean, number) == ([2.0, 2.0], 5)
    assert same == torch.full((2,), 0.1).tolist()  # what is equal stays as it is, bit for bit


def test_a_crew_does_each_item_once_and_in_order() -> None:
    def work(ranks: Ranks) -> Any:
        done: list[int] = []

        def tenfold(item: int) -> list[int]:
            done.append(item)
            return [item * 10, ranks.rank]

        crew = Crew(ranks, tenfold)
        if not ranks.first:
            crew.follow()
            return done
        found = [crew(items) for items in ([1, 2, 3, 4, 5], [], [6])]
        crew.dismiss()
        return found

    first, *others = in_ranks(3, work)
    assert first == [[[10, 0], [20, 1], [30, 2], [40, 0], [50, 1]], [], [[60, 0]]]
    assert others == [[2, 5], [3]]


def test_other_values_than_rank_0_are_named() -> None:
    found = in_ranks(3, lambda ranks: differing(ranks, {"data": f"digest {ranks.rank // 2}", "model": "same"}))
    assert found == [(2, ["data"])] * 3
    assert in_ranks(2, lambda ranks: differing(ranks, {"data": "same"})) == [None, None]


def test_one_rank_needs_no_group() -> None:
    alone, parameter = Ranks(), nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 0.3)
    value = object()
    assert gather(alone, value) == [value]
    assert broadcast(alone, value) is share_state(alone, value) is value
    assert average_gradients(alone, [parameter], 1.5, 3) == 1.5
    assert torch.equal(parameter.grad, torch.full((2,), 0.3))
    assert Crew(alone, lambda item: item + 1)([1, 2]) == [2, 3]
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_disjoint_and_merge_to_the_whole(size: int) -> None:
    for length in range(15):
        items = list(range(length))
        shares = [Ranks(rank, size).share(items) for rank in range(size)]
        assert Ranks(0, size).merged(shares) == items
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.lists(st.floats(0, 100), max_size=30), st.integers(1, 7))
def test_a_cut_takes_neighbours_and_no_part_is_much_dearer_than_the_mean(costs: list[float], size: int) -> None:
    parts = Ranks(0, size).cut(costs)
    assert len(parts) == size
    assert [index for part in parts for index in part] == list(range(len(costs)))
    dearest = max((sum(costs[index] for index in part) for part in parts), default=0.0)
    assert dearest <= sum(costs) / size + max(costs, default=0.0) + 1e-6
    assert Ranks(size - 1, size).cut(costs) == parts


@pytest.mark.parametrize(("rank", "size"), [(1, 1), (-1, 2), (0, 0)])
def test_a_rank_that_does_not_exist_is_refused(rank: int, size: int) -> None:
    with pytest.raises(ValueError, match="ranks count from 0"):
        Ranks(rank, size)


def test_rank_0_keeps_the_seed() -> None:
    assert Ranks().seed(7) == Ranks(0, 8).seed(7) == 7
    assert len({Ranks(rank, 8).seed(7) for rank in range(8)}) == 8
