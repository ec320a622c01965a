"""Texts: reading three files, segments against an explicit pass, and the carried state."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nasx.core.bilevel import state_kwargs, store_state, without_writes
from nasx.data.base import Text
from nasx.data.segments import LONGER, SHORTEST, Read, Segments
from nasx.data.text import Ptb
from nasx.errors import UserError

WORDS = torch.arange(203)


def segments(**settings: Any) -> Segments:
    return Segments(WORDS, **{"batch": 4, "bptt": 7, "short": 0.3, "seed": 5, "name": "w"} | settings)


# ------------------------------------------------------------------------------------------------------------ files
def files(folder: Path, **parts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ({"train": "a b\nc  a\n\n", "valid": "b d\n", "test": "a"} | parts).items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def test_words_are_numbered_as_they_occur_and_lines_end_in_eos(tmp_path: Path) -> None:
    files(tmp_path / "ptb")
    text = Ptb(path=str(tmp_path)).load()
    assert text.words == ("a", "b", "<eos>", "c", "d")
    assert text.train.tolist() == [0, 1, 2, 3, 0, 2, 2]
    assert text.valid.tolist() == [1, 4, 2]
    assert text.test.tolist() == [0, 2]
    assert text.described() == {"words": 5, "train": 7, "valid": 3, "test": 2}


def test_looks_in_the_usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path / "ptb")
    monkeypatch.setenv("NASX_DATA", str(tmp_path))
    assert Ptb().folder() == tmp_path / "ptb"
    files(tmp_path / "mine")
    assert Ptb(path=str(tmp_path / "mine")).folder() == tmp_path / "mine"


def test_missing_files_are_reported_with_places_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASX_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"no files found; looked in .*ptb.*train\.txt, valid\.txt and test\.txt"):
        Ptb().check()
    files(tmp_path / "ptb")
    (tmp_path / "ptb" / "valid.txt").unlink()
    with pytest.raises(UserError, match=r"is incomplete: no valid\.txt"):
        Ptb().check()


@pytest.mark.parametrize(("content", "fault"), [(b"", "is empty"), (b"caf\xe9\n", "not UTF-8 text")])
def test_damaged_files_are_reported(tmp_path: Path, content: bytes, fault: str) -> None:
    (files(tmp_path) / "train.txt").write_bytes(content)
    with pytest.raises(UserError, match=fault):
        Ptb(path=str(tmp_path)).load()


# --------------------------------------------------------------------------------------------------------- segments
def test_a_pass_reads_every_row_once_from_left_to_right() -> None:
    stream = segments()
    table = WORDS[:200].view(4, 50)
    for k in range(3):
        lengths = stream.lengths(k)
        assert lengths.sum() == 49
        taken = [next(stream) for _ in lengths]
        assert [batch.x.shape[1] for batch in taken] == lengths.tolist()
        assert torch.equal(torch.cat([batch.x for batch in taken], 1), table[:, :-1])
        assert torch.equal(torch.cat([batch.y for batch in taken], 1), table[:, 1:])
        assert [batch.rate for batch in taken] == pytest.approx([n / 7 for n in lengths])


def test_some_segments_are_half_as_long() -> None:
    found = np.concatenate([segments(short=0.25).lengths(k)[:-1] for k in range(400)])
    assert set(found.tolist()) == {7, 3}
    assert (found == 3).mean() == pytest.approx(0.25, abs=0.03)
    assert set(segments(short=0.0).lengths(0)[:-1].tolist()) == {7}


def test_jittered_lengths_are_normal_within_bounds() -> None:
    stream = Segments(torch.zeros(60_000, dtype=torch.long), batch=1, bptt=35, jitter=5.0, seed=1)
    found = stream.lengths(0)[:-1]
    assert found.min() >= SHORTEST
    assert found.max() <= 35 + LONGER
    assert found.mean() == pytest.approx(34.5, abs=0.5), "cut to whole words"
    assert found.std() == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize("stop", [0, 1, 6, 7, 8, 23])
def test_resumed_equals_uninterrupted(stop: int) -> None:
    whole = list(itertools.islice(segments(), 30))
    first = segments()
    for _ in range(stop):
        store_state(next(first), torch.full((4, 2), 3.0))
    second = segments()
    second.load_state_dict(first.state_dict())
    for i, (one, other) in enumerate(zip(whole[stop:], itertools.islice(second, 30 - stop), strict=True)):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)
        assert (one.seed, one.rate) == (other.seed, other.rate)
        if i == 0 and stop:
            state = other.carried.read()
            at_start = segments().place(stop)[1] == 0
            assert state is None if at_start else torch.equal(state, torch.full((4, 2), 3.0))  # type: ignore[arg-type]


def test_streams_of_other_names_and_seeds_differ() -> None:
    assert segments().lengths(0).tolist() != segments(seed=6).lengths(0).tolist()
    assert len({next(segments(name=name, seed=seed)).seed for name in "wa" for seed in (1, 2)}) == 4


def test_a_pass_takes_per_pass_batches_on_average() -> None:
    stream = Segments(torch.zeros(50_000, dtype=torch.long), batch=10, bptt=35, short=0.05, seed=3)
    mean = np.mean([len(stream.lengths(k)) for k in range(50)])
    assert stream.per_pass == pytest.approx(mean, rel=0.02)


def test_rows_that_would_be_too_short_are_refused() -> None:
    with pytest.raises(UserError, match="batch=102: splits 203 words into rows of 1"):
        segments(batch=102)
    assert segments(batch=101).total == 1


# ------------------------------------------------------------------------------------------------------------ state
def value(batch: Any) -> Tensor | None:
    return state_kwargs(batch)["state"]


def test_a_state_goes_from_each_batch_to_the_next_and_passes_start_again() -> None:
    stream = segments()
    for i in range(20):
        batch = next(stream)
        _, j = stream.place(i)
        assert (value(batch) is None) == (j == 0)
        if j:
            assert torch.equal(value(batch), torch.tensor(float(i - 1)))  # type: ignore[arg-type]
        store_state(batch, torch.tensor(float(i)))


def test_the_first_evaluation_stays_until_a_real_update_writes() -> None:
    """Probes read the same state however often they evaluate; TSE's second pass over its batches is chained anew."""
    stream = segments()
    batches = [next(stream) for _ in range(3)]
    for number in (1.0, 2.0):
        store_state(batches[0], torch.tensor(number), track=False)
    assert value(batches[1]) == 1.0
    store_state(batches[0], torch.tensor(3.0), track=True)
    assert value(batches[1]) == 3.0
    store_state(batches[0], torch.tensor(4.0), track=False)
    assert value(batches[1]) == 3.0
    store_state(batches[2], torch.tensor(5.0), track=True)
    assert stream.state_dict()["carried"] == 5.0


def test_looking_at_a_batch_hands_nothing_on() -> None:
    stream = segments()
    store_state(next(stream), torch.tensor(1.0))
    seen = stream.at(stream.position)
    assert value(seen) == 1.0
    store_state(seen, torch.tensor(9.0))
    batch = next(stream)
    assert value(without_writes(batch)) == 1.0
    store_state(without_writes(batch), torch.tensor(9.0))
    assert stream.slot.value is None
    assert torch.equal(seen.x, batch.x)


def test_states_have_no_history() -> None:
    stream, state = segments(), torch.ones(4, 2, requires_grad=True)
    store_state(next(stream), 2 * state)
    assert not value(next(stream)).requires_grad  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------------------- sets
def opened(**settings: Any) -> Read:
    text = Text(train=np.arange(120), valid=np.arange(200, 250), test=np.arange(300, 331), words=("x",) * 331)
    return Read(text, "cpu", **{"bptt": 7} | settings)


def test_weights_learn_from_the_training_text_and_the_architecture_from_the_validation_text() -> None:
    data = opened(short=0.5)
    w, a = data.split(0)
    streams = [data.stream(name, index, batch=2, seed=1) for name, index in (("w", w), ("a", a))]
    assert streams[0].rows.flatten().tolist() == list(range(120))
    assert streams[1].rows.flatten().tolist() == list(range(200, 250))
    assert (data.shape, data.carries, len(data.classes)) == ((7,), True, 331)


@pytest.mark.parametrize("batch", [1, 3])
def test_evaluation_reads_a_part_once_in_even_segments(batch: int) -> None:
    data = opened(short=0.5, jitter=3.0)
    _, a = data.split(0)
    for part, index, words in (
        ("test", None, range(300, 331)),
        ("train", a, range(200, 250)),
        ("train", a[:20], range(200, 220)),
    ):
        table = torch.tensor(words)[: len(words) // batch * batch].view(batch, -1)
        taken: list[Any] = []
        for i, segment in enumerate(data.ordered(part, index, batch=batch)):  # type: ignore[arg-type]
            assert (value(segment) is None) == (i == 0), "each goes on from the one before"
            store_state(segment, torch.tensor(0.0))
            taken.append(segment)
        assert torch.equal(torch.cat([s.y for s in taken], 1), table[:, 1:])
        assert {s.x.shape[1] for s in taken[:-1]} <= {7}


def test_a_set_that_is_too_small_is_reported_before_it_is_read() -> None:
    with pytest.raises(UserError, match="batch=16"):
        opened().ordered("test", batch=16)
