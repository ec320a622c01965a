"""Search and training on a generated text: the perplexity that they reach, and whether both resume bit for bit.

    uv run python scripts/text.py OUT

The text is that of tests/support/texts.py: an alphabet of eight letters, a few of them per line, in order from a random
one on; guessing gives a perplexity of nine. For each method, one search and the training of its cell run to their end;
the same commands in another folder are killed with kill -9 after some checkpoint of each and started again.
Checkpoints, metrics and records (except times) must be equal bit for bit. A table is printed and written to
OUT/text.md.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from forks import starters
from kills import compared

from nasx.tracking import checkpoints, records

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
import texts

COMMON = ("space=darts_rnn", "device=cpu", "threads=1", "quiet=true", "checkpoint_s=0.2")
SEARCH = (
    "space.channels=16",
    "search.batch=16",
    "search.bptt=8",
    "search.lr_min=5",
    "search.dropout_x=0.1",
    "search.dropout_hidden=0.1",
    "search.dropout_output=0.1",
    "search.dropout_input=0.1",
    "search.epochs=8",
)
TRAINING = (
    "retrain.channels=16",
    "retrain.batch=16",
    "retrain.bptt=8",
    "retrain.epochs=12",
    "retrain.valid_batch=4",
    "retrain.patience=2",
    "retrain.dropout_x=0.1",
    "retrain.dropout_hidden=0.1",
    "retrain.dropout_output=0.1",
)
METHODS = {
    "DARTS, first order": ("method=darts",),
    "DARTS, second order": ("method=darts", "method.order=2"),
    "Amended-DARTS": ("method=amended",),
    "TSE-DARTS": ("method=tse", "method.T=3", "search.clip=0.25"),
    "random search": ("method=random",),
}
"""The methods; the last one is a reference."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fork", action="store_true", help="fork the commands instead of starting Python for each")
    args = parser.parse_args()
    through, killed = starters(args.fork)
    text, draw = texts.write(args.out / "letters"), random.Random(0)
    lines = [
        "| method | step | updates | perplexity, epoch 1 | last epoch | test | kill -9 | values | resumed |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, words in METHODS.items():
        base = args.out / words[0].partition("=")[2] / str(len(words))
        for verb, own in (("search", (*words, *SEARCH)), ("retrain", TRAINING)):
            folders, kills = [], 0
            for side, start in (("through", through), ("killed", killed)):
                folder = base / side / verb
                line = [
                    verb,
                    *COMMON,
                    *own,
                    f"dataset.path={text}",
                    f"out={folder.parent}",
                    f"name={verb}",
                    *([f"from={folder.parent / 'search'}"] if verb == "retrain" else []),
                ]
                if side == "killed":
                    wanted, job = draw.randint(1, 4), start(line)
                    while (
                        job.running()
                        and len(records.read_rows(folder)) < wanted
                        and not (wanted == 1 and checkpoints.found(folder))
                    ):
                        time.sleep(0.01)
                    if job.running():
                        job.kill()
                        kills = 1
                    else:
                        job.end()
                code, said = start(line).end()
                if code:
                    raise SystemExit(f"{' '.join(line)}\n{said}")
                folders.append(folder)
            values, differ = compared(*folders)
            rows, result = records.read_rows(folders[0]), records.finished(folders[0]) or {}
            shown = [
                f"{rows[i]['valid_perplexity']:.2f}" if rows and "valid_perplexity" in rows[i] else "-" for i in (0, -1)
            ]
            test = f"{result['test_perplexity']:.2f}" if result.get("test_perplexity") else "-"
            lines.append(
                f"| {name} | {verb} | {result.get('updates')} | {shown[0]} | {shown[1]} | {test} | {kills} | "
                f"{values} | {'equal' if not differ else 'differs: ' + ', '.join(differ[:4])} |"
            )
            print(lines[-1], flush=True)
    (args.out / "text.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(any("differs" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
