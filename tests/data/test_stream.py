"""Streams: pure functions of (seed, position), full passes, exact resume."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import torch

from nasx.data.augment import Augment
from nasx.data.batch_stream import Batch, Order, Stream, device_images, evaluation, hashed
from nasx.data.images import Digits
from nasx.errors import UserError

AUGMENT = Augment(pad=2, flip=True, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), cutout=4)
X = torch.arange(23, dtype=torch.uint8).view(-1, 1, 1, 1) * torch.ones(1, 3, 8, 8, dtype=torch.uint8)
Y = torch.arange(23)


def stream(**settings: object) -> Stream:
    return Stream(X, Y, **{"index": None, "batch": 5, "seed": 7, "augment": AUGMENT} | settings)  # type: ignore[arg-type]


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and a.seed == b.seed


@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_resumed_equals_uninterrupted(stop: int) -> None:
    whole = list(itertools.islice(stream(), 14))
    first = stream()
    for _ in range(stop):
        next(first)
    assert first.state_dict() == {"position": stop}
    second = stream()
    second.load_state_dict(first.state_dict())
    assert all(same(a, b) for a, b in zip(whole[stop:], itertools.islice(second, 14 - stop), strict=True))


@pytest.mark.parametrize("batch", [1, 5, 23, 24, 60])
def test_every_pass_holds_every_image_once(batch: int) -> None:
    index = np.array([1, 3, 4, 8, 9, 15, 22])
    items = torch.cat([stream(index=index, batch=batch).items(i) for i in range(4 * 7)])
    for k in range(4 * batch):
        assert sorted(items[7 * k : 7 * k + 7].tolist()) == index.tolist()


def test_passes_and_seeds_and_names_differ() -> None:
    one_pass = [stream(batch=23).items(i).tolist() for i in range(3)]
    others = [stream(batch=23, seed=8).items(0).tolist(), stream(batch=23, name="val").items(0).tolist()]
    assert len({tuple(order) for order in one_pass + others}) == 5


def test_a_batch_is_what_its_items_and_seed_say() -> None:
    streamed = stream()
    batch = streamed.at(11)
    assert torch.equal(batch.y, streamed.items(11))
    assert batch.seed == hashed(7, "", "batch", 11)
    gen = torch.Generator().manual_seed(batch.seed)
    assert torch.equal(batch.x, AUGMENT.apply(X[batch.y], AUGMENT.draws(5, 8, 8, gen)))
    assert streamed.position == 0


def test_batch_seeds_differ_and_fit_a_generator() -> None:
    seeds = [stream().at(i).seed for i in range(50)]
    assert len(set(seeds)) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_hashed_is_the_same_in_every_process() -> None:
    assert hashed(0, "batch", 0) == 4290264108658327111
    assert len({hashed(1, 2), hashed(12), hashed("12"), hashed("1", 2)}) == 4


def test_evaluation_takes_each_image_once_in_order() -> None:
    batches = list(evaluation(X, Y, np.array([4, 2, 9, 7, 1]), batch=2, augment=AUGMENT))
    assert [batch.y.tolist() for batch in batches] == [[4, 2], [9, 7], [1]]
    assert torch.equal(batches[0].x, AUGMENT.plain(X[[4, 2]]))
    assert [len(batch.y) for batch in evaluation(X, Y, None, batch=10, augment=AUGMENT)] == [10, 10, 3]


def test_faults() -> None:
    with pytest.raises(UserError, match="batch=0"):
        stream(batch=0)
    with pytest.raises(UserError, match="without images"):
        stream(index=np.array([], np.int64))


def test_a_batch_that_is_larger_than_the_set_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(logging.getLogger("nasx"), "warning", lambda text, *given: told.append(text % given))
    Order(np.arange(23), batch=23, seed=0, name="w")
    assert told == []
    for name, group in (("w", "search"), ("a", "search"), ("retrain", "retrain")):
        order = Order(np.arange(23), batch=24, seed=0, name=name)
        assert len(set(order.items(0, torch.Generator()).tolist())) == 23
        assert told.pop() == (
            f"{group}.batch=24: larger than the set of 23 images, so a batch contains some of them more than once"
        )


def test_fields_are_those_of_the_core() -> None:
    from nasx.core import bilevel

    assert Batch._fields == bilevel.Batch._fields


def test_device_images_are_bytes() -> None:
    images = Digits(size=8).load()
    placed = device_images(images, "cpu")
    assert placed.train_x.dtype == torch.uint8
    assert torch.equal(placed.test_y, torch.from_numpy(images.test_y))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_batches_equal_cpu_and_wait_for_nothing() -> None:
    on_gpu = stream()
    on_gpu.x, on_gpu.y = X.cuda(), Y.cuda()
    on_gpu.at(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [on_gpu.at(i) for i in range(8)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(same(Batch(b.x.cpu(), b.y.cpu(), b.seed), stream().at(i)) for i, b in enumerate(batches))
