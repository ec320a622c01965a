"""From user images over a search to an export, each step with the command printed by the previous one."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jobs
import pytest
from own_images import BAD, CLASSES, LAYOUTS, own_images, write

from nasx.core import files

IMAGES = "my phötos, 3 kinds"
SEARCH = (
    "search",
    "space=nb201",
    "space.layers=1",
    "space.channels=4",
    "dataset=folder",
    f"dataset.path='{IMAGES}'",
    "dataset.size=16",
    "dataset.flip=false",
    "dataset.mean=[0.4,0.45,0.5]",
    "dataset.std=[0.2,0.25,0.3]",
    "search.batch=4",
    "search.epochs=1",
    "search.updates_per_epoch=2",
    "threads=1",
)
SHORT = ("retrain.epochs=1", "retrain.layers=1", "retrain.channels=4", "retrain.batch=8", "threads=1")
"""What the printed retraining gets to be short."""


def printed(done: jobs.Done, command: str) -> list[str]:
    """The words of `nasx COMMAND ...` among the next commands that a step has printed, as a shell reads them."""
    assert done.code == 0, done
    _, _, tail = done.out.partition("next: ")
    lines = [shlex.split(line) for line in tail.splitlines() if line.strip()]
    [words] = [words[1:] for words in lines if words[:2] == ["nasx", command]]
    return words


def facts(text: str) -> dict[str, str]:
    """What `nasx info` and `nasx evaluate` print, by name."""
    return {name.strip(): value.strip() for name, _, value in (line.partition("  ") for line in text.splitlines())}


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[] if name == "train/val" else pytest.mark.slow) for name in LAYOUTS]
)
@pytest.mark.slow
def test_each_step_is_printed_by_the_one_before(layout: str, tmp_path: Path) -> None:
    """Grey, deep, CMYK, palette, transparent, WebP and turned images; bad ones are named first, all at once."""
    own_images(tmp_path / IMAGES, layout)
    bad = [tmp_path / IMAGES / LAYOUTS[layout][0] / CLASSES[i % 3] / name for i, name in enumerate(BAD)]
    for path, content in zip(bad, BAD.values(), strict=True):
        write(path, content)
    refused = jobs.nasx(tmp_path, *SEARCH)
    assert refused.code == 2, refused
    assert all(path.name in refused.err for path in bad), refused
    for path in bad:
        path.unlink()
    done = jobs.nasx(tmp_path, *SEARCH)
    assert "not on folder: retrain it" in " ".join(done.out.split()), done
    [searched] = (tmp_path / "outputs").glob("darts-*")
    held = files.read_yaml(searched / "config.yaml")
    assert held is not None
    words = printed(done, "retrain")
    whole = jobs.nasx(tmp_path, *words, "--cfg=job")  # without more words, too
    assert whole.code == 0, whole
    assert "name: null" in whole.out

    done = jobs.nasx(tmp_path, *words, *SHORT)
    assert done.code == 0, done
    [trained] = (tmp_path / "outputs").glob("retrain-*")
    found = record(trained)
    block = (files.read_yaml(trained / "config.yaml") or {})["dataset"]
    assert block == held["dataset"], "the whole block of the search"
    assert (block["path"], block["size"], block["mean"]) == (IMAGES, 16, [0.4, 0.45, 0.5])
    assert found["images"]["classes"] == list(CLASSES)

    accuracy = f"{100 * found['test_accuracy']:.2f} %"
    done = jobs.nasx(tmp_path, *printed(done, "evaluate"))
    assert facts(done.out)["accuracy"] == accuracy, done
    done = jobs.nasx(tmp_path, *printed(done, "export"))
    assert (trained / "export" / "model.safetensors").is_file(), done
    words = printed(done, "evaluate")
    assert f"path={IMAGES}" in words
    done = jobs.nasx(tmp_path, *words)
    assert facts(done.out)["accuracy"] == accuracy, done
    named = jobs.nasx(tmp_path, *words, "dataset=folder")  # the same set, named: its settings stay
    assert facts(named.out) == facts(done.out)

    info = facts(jobs.nasx(tmp_path, "info", f"from={trained.relative_to(tmp_path)}").out)
    assert (info["parameters"], info["multiply-adds"]) == (str(found["params"]), str(found["macs"]))
    assert (info["classes"], info["image"], info["layers"], info["channels"]) == ("3", "16x16", "1", "4")
    assert facts(jobs.nasx(tmp_path, "info", f"from={searched.relative_to(tmp_path)}").out)["classes"] == "3"
    diagnosed = jobs.nasx(tmp_path, "diagnose", str(searched.relative_to(tmp_path)), "threads=1")
    assert diagnosed.code == 0, diagnosed
    (tmp_path / IMAGES).rename(tmp_path / "moved")
    moved = jobs.nasx(tmp_path, "diagnose", str(searched.relative_to(tmp_path)), "path=moved", "threads=1")
    assert moved.code == 0, moved
    lost = jobs.nasx(tmp_path, "evaluate", str(trained.relative_to(tmp_path)))
    assert (lost.code, "does not exist" in lost.err) == (2, True), lost
    assert (
        facts(jobs.nasx(tmp_path, "evaluate", str(trained.relative_to(tmp_path)), "path=moved").out)["accuracy"]
        == accuracy
    )
