"""Help is data: what a setting means stands where its type and range do."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest

from rws_cli.config import schema

SCHEMAS = [value for value in vars(schema).values() if isinstance(value, type) and is_dataclass(value)]


@pytest.mark.parametrize("cls", SCHEMAS, ids=lambda cls: cls.__name__)
def test_every_setting_says_what_it_means(cls: type) -> None:
    for field in fields(cls):
        meaning = field.metadata.get("meaning", "")
        if field.name not in ("name", "kind"):
            assert sum(map(str.isalpha, meaning)) >= 3, field.name
        assert "\n" not in meaning
        assert not meaning.endswith("."), field.name


def test_settings_are_all_of_them() -> None:
    """The walk above sees what a configuration is made of."""
    parts = (schema.GUIDANCES, schema.SCHEDULES, schema.REVIEWS, schema.SEARCHES)
    assert {schema.Config, schema.Sampler, schema.PcOrder}.union(*(p.values() for p in parts)) <= set(SCHEMAS)


def test_a_setting_is_required_unless_it_has_a_default() -> None:
    with pytest.raises(TypeError, match="strength"):
        schema.RewardGuidance(kind="rws")
    assert schema.Table(title="a", columns=[]).note == ""
