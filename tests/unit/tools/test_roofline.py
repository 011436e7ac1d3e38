import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from svd_service.video.optimizations import AUTO
from tools import roofline
from tools.roofline import META, Roofline, build, fused_attention, rows, step

RATES = (1e12, 1e9)
SIZE = (2, 64, 64)


@pytest.fixture(scope="module")
def counted() -> Roofline:
    """One step of the tiny architecture."""
    return step(build("tiny", frozenset()), RATES, *SIZE)


def test_the_arithmetic_of_all_blocks_is_what_torch_counts(counted: Roofline) -> None:
    unet = build("tiny", frozenset()).unet
    with META, torch.no_grad(), fused_attention(), FlopCounterMode(display=False) as counter:
        sample = torch.empty(2, 2, 8, 8, 8, dtype=torch.float16)
        image = torch.empty(2, 1, 32, dtype=torch.float16)
        unet(sample, torch.empty(()), image, torch.empty(2, 3, dtype=torch.float16))
    assert sum(cost.flop for cost in counted.costs.values()) == counter.get_total_flops() > 0
    assert {kind for (_, kind), cost in counted.costs.items() if cost.flop} == {
        "products",
        "convolutions",
        "attention",
    }


def test_an_operation_takes_the_longer_of_its_arithmetic_and_its_traffic() -> None:
    one, other = torch.empty(1000, 1000, device=META), torch.empty(1000, 1000, device=META)
    for rates, seconds in (((2e9, 1e15), 1.0), ((1e18, 12e6), 1.0)):
        with Roofline(*rates) as counted:
            one @ other
            one.view(-1)
        (cost,) = counted.costs.values()
        assert (cost.flop, cost.bytes) == (2e9, 12e6)
        assert cost.seconds == pytest.approx(seconds)


def test_the_last_line_is_the_sum_of_the_blocks(counted: Roofline) -> None:
    *blocks, whole = rows(counted, RATES[0])
    assert [line[0] for line in blocks] == [
        roofline.REST,
        *(f"down {number}" for number in range(4)),
        "middle",
        *(f"up {number}" for number in range(4)),
    ]
    assert float(whole[6]) == pytest.approx(1e3 * sum(cost.seconds for cost in counted.costs.values()), abs=0.06)
    assert len(whole) == len(roofline.HEAD)


def test_the_optimizations_of_a_gpu_save_products_and_traffic(counted: Roofline) -> None:
    faster = step(build("tiny", AUTO["cuda"]), RATES, *SIZE)
    assert faster.total().flop < counted.total().flop
    assert faster.total().bytes < counted.total().bytes
