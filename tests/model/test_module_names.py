"""Names of a configuration as attributes of a module."""

import pytest
from torch import nn

from recap.model.module_names import module_key


@pytest.mark.parametrize(
    ("name", "key"),
    [("is_favorited", "is_favorited"), ("forward", "forward_"), ("type", "type_"), ("a b", "a b")],
)
def test_a_name_that_every_module_has_gets_an_underscore(name, key):
    assert module_key(name) == key
    assert key in nn.ModuleDict({key: nn.Identity()})


@pytest.mark.parametrize("name", ["", "recap.engagement.is_replied"])
def test_a_name_that_cannot_be_a_key_is_refused(name):
    with pytest.raises(ValueError, match="must not be empty nor hold a dot; write '_' for it"):
        module_key(name)
