"""Finished searches for a report, and the page that `nasx report` writes about them."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from finished import CELL

from nasx.cli import report
from nasx.tracking import run_folder

EMPTY = {"meta", "img", "link", "br", "wbr", "input"}


def writer(tmp_path: Path) -> Callable[..., None]:
    """Return a writer of finished searches of three epochs (with run_folder); keywords replace fields of the record."""
    count = iter(range(1000))

    def write(method="darts", seed=0, valid=90.0, epochs=3, settings=None, **fields):
        number = next(count)
        choices = {"method": method, "space": "nb201", "dataset": "cifar10"} | fields.pop("choices", {})
        identity = {"seed": seed, **(settings or {})}
        with run_folder.Run(tmp_path / "outputs" / f"run{number}", identity, {"choices": choices}) as run:
            lookup = {"benchmark": "nb201", "cifar10": {"valid": valid, "test": None}}
            for epoch in range(1, epochs + 1):
                run.append(
                    {
                        "epoch": epoch,
                        "train_loss": 2.0 / epoch + seed,
                        "valid_accuracy": 0.3 * epoch / epochs,
                        "eigenvalue": 0.1 * epoch,
                        "lookup": lookup,
                        "genotype": CELL,
                        "mix": {"cell": [[0.1, 0.2, 0.3, 0.2, 0.2]] * 6},
                    }
                )
            run.finish(
                {
                    "kind": "search",
                    "name": f"run{number}",
                    "status": "finished",
                    "choices": choices,
                    "seed": seed,
                    "identity": f"{number:08x}",
                    "family": f"{method}",
                    "protocol": "nb201-v1",
                    "overrides": [],
                    "genotype": CELL,
                    "lookup": lookup,
                    "wall_s": 60.0,
                    "peak_mb": 100,
                    "updates": 3,
                    "passes": 6,
                    "commit": "abc",
                    "versions": {"torch": "2"},
                    "hardware": {"device": "cpu", "name": "A CPU"},
                    "verdict": {"collapsed": False, "moving": True},
                    **fields,
                }
            )

    return write


class Page(HTMLParser):
    """A page's elements and text; balanced tags are asserted."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.texts, self.attributes = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.tags[-1:] == ["wbr"] and self.texts:  # a single word that may be broken here
            self.texts[-1] += data
        elif not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)


def written(*given) -> tuple[str, Page]:
    report.main(list(given))
    with open("report.html", encoding="utf-8") as file:
        text = file.read()
    return text, Page(text)
