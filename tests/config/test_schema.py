"""Help is data: what a setting means stands where its type and range do."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest

from rws_cli import registry
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


def test_a_setting_is_required_unless_it_has_a_default() -> None:
    with pytest.raises(TypeError, match="columns"):
        schema.Table(title="a")  # type: ignore[call-arg]
    assert schema.Table(title="a", columns=[]).note == ""


@pytest.mark.parametrize("role", registry.ROLES)
def test_every_setting_of_a_part_says_what_it_means(role: str) -> None:
    for source in registry.available(role).values():
        assert source.title
        for setting in source.settings.values():
            if setting.name not in ("name", "kind"):
                assert sum(map(str.isalpha, setting.meaning)) >= 3, (source.name, setting.name)
            assert "\n" not in setting.meaning
            assert not setting.meaning.endswith(".")
