"""Factors by patterns of names are read from a command line, with and without quotes, and from a file, and written again."""

from pathlib import Path

import pytest

from ldm_train.settings.composition import as_yaml, compose
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.shipped import ConfigError

RUN = ["cache=any", "run_dir=any"]
NAME = "parameter_groups.rates"


def read_rates(*words: str) -> object:
    settings = compose("train", [*RUN, *words])
    assert isinstance(settings, TrainSettings)
    return settings.parameter_groups.rates


@pytest.mark.parametrize("written", ["{network.down.*:0.5,*.bias:2}", "{'network.down.*': 0.5, \"*.bias\": 2}"])
def test_a_command_line_and_a_file_say_the_same(written: str, tmp_path: Path) -> None:
    expected = {"network.down.*": 0.5, "*.bias": 2.0}
    assert read_rates(f"{NAME}={written}") == expected
    file = tmp_path / "settings.yaml"
    file.write_text('parameter_groups:\n  rates: {network.down.*: 0.5, "*.bias": 2}\n')
    assert read_rates(f"config={file}") == expected
    file.write_text(as_yaml(compose("train", [*RUN, f"{NAME}={written}"])))
    assert read_rates(f"config={file}") == expected


@pytest.mark.parametrize("value", ["5", "{a:b}", "[a]"])
def test_what_gives_no_factor_to_a_pattern_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="rates") as caught:
        read_rates(f"{NAME}={value}")
    assert "{network.down.*:0.5}" in str(caught.value)
