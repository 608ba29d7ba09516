"""Settings: one definition for flags, files and the API."""

from pathlib import Path

import pytest

from alphasteer.errors import LearningError
from alphasteer.learning import FitSettings, fit_settings, read_config


def test_nothing_given_is_the_default_preset():
    assert fit_settings() == FitSettings()


def test_the_paper_preset_stands_in_only_for_what_is_not_given():
    assert fit_settings({"preset": "paper"}).null_space == FitSettings(preset="paper").null_space == "hard"
    assert fit_settings({"preset": "paper", "null_space": "soft"}).null_space == "soft"


def test_the_paper_preset_needs_tries_to_choose_from():
    with pytest.raises(LearningError, match="trials must be at least 1"):
        fit_settings({"preset": "paper", "trials": 0})
    assert fit_settings({"trials": 0}).trials == 0


def test_a_yaml_file_gives_settings_by_name(tmp_path):
    path = tmp_path / "fit.yaml"
    path.write_text("limit: 40\nlayers: 12-20\nbenign:\n  - a.jsonl\n")
    assert read_config(path) == {"limit": 40, "layers": "12-20", "benign": ["a.jsonl"]}
    assert read_config(None) == {}
    assert fit_settings({"layers": "12-20"}).window == (12, 20)


@pytest.mark.parametrize(
    "bad", [{"limits": 3}, {"layers": "12"}, {"benign_budget": 0}, {"limit": 1}, {"preset": "mine"}, {"strength": 0}]
)
def test_unknown_and_impossible_settings_are_named(bad):
    with pytest.raises(LearningError, match=f"'{next(iter(bad))}'"):
        fit_settings(bad)


@pytest.mark.parametrize("content", ["- a\n- b\n", "limit: [", "\x00"])
def test_files_that_hold_no_settings_are_refused(tmp_path, content):
    path = tmp_path / "fit.yaml"
    path.write_text(content)
    with pytest.raises(LearningError):
        read_config(path)


def test_the_docs_list_every_setting_with_its_default():
    told = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
    for name, field in FitSettings.model_fields.items():
        default = "none" if field.default is None else str(field.default)
        default = default.lower() if isinstance(field.default, bool) else default
        assert f"| `{name}` | {default} | {field.description} |" in told
