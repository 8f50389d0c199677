"""``torch.optim.Adam`` without the import of torch's compiler."""

from __future__ import annotations

import inspect

import torch
from torch import optim


class Adam(optim.Adam):
    """``torch.optim.Adam``: the same settings, state and numbers.

    torch wraps these methods for the case that torch.compile traces them. The wrappers import the
    compiler as soon as an optimizer is made (torch._dynamo and, with it, sympy and pandas: as much
    again as torch itself), also in a run that compiles nothing. A compiled ranker is not concerned:
    its updates are not traced.
    """

    __module__ = optim.Adam.__module__  # what checkpoints tell of it: the moments are the same

    add_param_group = inspect.unwrap(optim.Adam.add_param_group)
    load_state_dict = inspect.unwrap(optim.Adam.load_state_dict)
    state_dict = inspect.unwrap(optim.Adam.state_dict)
    zero_grad = inspect.unwrap(optim.Adam.zero_grad)
    step = torch.no_grad()(inspect.unwrap(optim.Adam.step))
