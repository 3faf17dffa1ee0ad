"""Each name that `evlm` offers is there, and is loaded only when it is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import evlm


@pytest.mark.parametrize("name", evlm.__all__)
def test_each_name_is_there(name):
    assert getattr(evlm, name) is not None
    assert name in dir(evlm)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="has no attribute 'magic'"):
        getattr(evlm, "magic")  # noqa: B009
    assert len(evlm.__all__) == len(set(evlm.__all__))


def test_the_version_is_the_project_s():
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert re.search(r'^version = "(.+)"$', project.read_text(), re.MULTILINE)[1] == evlm.__version__
