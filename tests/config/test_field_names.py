"""Option names of the field's scripts are answered with the settings of nasx."""

from __future__ import annotations

import pytest
from composing import composed, faults

from nasx.cli import arguments
from nasx.config import commands, components, field_names
from nasx.core import spelling
from nasx.errors import UserError


@pytest.fixture(scope="module")
def configurations() -> dict[str, dict]:
    return {command: composed(command, "dataset=digits")[0] for command in ("search", "retrain", "run")}


@pytest.mark.parametrize("name", sorted([*field_names.OURS, *field_names.NEEDLESS]))
def test_each_name_leads_to_settings_that_exist(name: str, configurations: dict[str, dict]) -> None:
    answers = []
    for command, cfg in configurations.items():
        entry = commands.COMMANDS[command]
        told = field_names.remedy(name, cfg, [group for group in entry.groups if group not in entry.unread])
        for key in [word.partition("=")[0] for word in told.removeprefix("in nasx it is ").split() if "=" in word]:
            assert components.unknown_key(cfg, key, command) is None, key
            answers.append(key)
    assert set(answers) == set(field_names.OURS.get(name, ()))


@pytest.mark.parametrize(
    ("command", "word", "remedy"),
    [
        ("search", "unrolled=true", "in nasx it is method.order=2"),
        ("search", "alpha_lr=1e-3", "in nasx it is search.arch_lr=..."),
        ("search", "search.learning_rate=1", "in nasx it is search.lr=..."),
        ("search", "batch_size=64", "in nasx it is search.batch=..."),
        ("retrain", "batch_size=64", "in nasx it is retrain.batch=..."),
        ("run", "drop_path_prob=0.2", "in nasx it is search.drop_path=... or retrain.drop_path=..."),
        ("search", "init_channels=16", "in nasx it is space.channels=..."),
        ("search", "report_freq=50", "leave it out"),
        ("search", "save=EXP", "in nasx it is name=... or out=..."),
        ("search", "search.layers=8", "did you mean space.layers?"),
        ("search", "layers=8", "did you mean space.layers?"),
        ("search", "search.bach=8", "did you mean batch?"),
        ("search", "weight_decay=0", "did you mean search.weight_decay?"),
    ],
)
def test_the_error_says_what_to_write(command: str, word: str, remedy: str) -> None:
    told = [line for line in faults(word, "dataset=digits", command=command) if line.startswith(word.split("=")[0])]
    assert len(told) == 1
    assert remedy in told[0]


@pytest.mark.parametrize("word", ["--batch_size", "--batch-size", "--unrolled"])
def test_an_option_of_their_scripts_is_answered_too(word: str) -> None:
    ours = " or ".join(field_names.OURS[word.lstrip("-").replace("-", "_")])
    with pytest.raises(UserError, match=f"settings are written key=value, and this one is {ours}"):
        arguments.split_options([word, "64"])


def test_a_typo_of_a_method_is_the_nearest_method() -> None:
    assert spelling.nearest("drats", ["drnas", "darts", "sdarts", "gdas"]) == "darts"
    assert "did you mean darts?" in faults("method=drats", "dataset=digits")[0]
