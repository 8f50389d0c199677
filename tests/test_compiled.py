"""The compiled ranker is one graph for all batches, and computes what the ranker computes.

What torch.compile traces is run as it is (aot_eager) but in one test: making kernels takes long.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from every_layer import BACKBONES, INPUTS, batch, ranker, with_statistics
from tiny import Tiny
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor import config as inductor
from torch.testing._internal.distributed.fake_pg import FakeStore

from recap.batch import Batch
from recap.evaluation import evaluate
from recap.experiment import prepare
from recap.model import HeavyRanker, linear
from recap.run import parallel
from recap.run.compiled import Compiled

# torch hides these itself, unless warnings are errors
pytestmark = [
    pytest.mark.filterwarnings("default:.*should not be instantiated. Methods on autograd"),
    pytest.mark.filterwarnings("default:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("default:`torch.jit.script_method` is deprecated"),
]

DENSE = ("double_norm_log", "user", "position", "small")
ALL = ("clip_log1p_abs", "user", "tables", "position", "small", "rates")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """torch keeps what it compiled by code, not by ranker."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled or not, a ranker's layers are torch's own: the fast ones add up in another order.

    How near those come to float64 is shown in tests/model/test_linear.py.
    """
    monkeypatch.setattr(linear, "writes_in_place", lambda rows: False)


def gradients(module: torch.nn.Module, given: Batch) -> list[torch.Tensor]:
    """The logits, and the gradients of some number that follows from them, of one seed."""
    torch.manual_seed(3)
    logits = module(given)
    trained = [p for p in module.parameters() if p.requires_grad]
    return [logits, *torch.autograd.grad(logits.square().mean(), trained)]


def same_in_one_graph(model: HeavyRanker, given: Batch) -> None:
    """The ranker is traced without a break, and has the same logits and gradients then."""
    traced = CompileCounterWithBackend("aot_eager")
    compiled = gradients(Compiled(model, "default", traced), given)
    for mine, plain in zip(compiled, gradients(model, given), strict=True):
        assert torch.equal(mine, plain)
    assert traced.frame_count == 1


@pytest.mark.parametrize("backbone", [*BACKBONES, None])
def test_every_backbone_is_one_graph(backbone: str | None):
    same_in_one_graph(ranker({name: INPUTS[name] for name in DENSE}, backbone), batch(8))


def test_fast_layers_step_aside_for_the_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    model, given = ranker({name: INPUTS[name] for name in DENSE}, "mask_net"), batch(8)
    traced = CompileCounterWithBackend("aot_eager")
    compiled = gradients(Compiled(model, "default", traced), given)
    torch.testing.assert_close(compiled, gradients(model, given))
    assert traced.frame_count == 1


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_goes_with_a_graph(name: str, tmp_path: Path):
    same_in_one_graph(ranker({name: with_statistics(name, tmp_path)}, "mlp"), batch(8))


def test_one_graph_serves_batches_of_all_sizes():
    model = ranker({name: INPUTS[name] for name in ALL}, "dcn")
    model.eval()  # batch norms do not train on one row
    traced = CompileCounterWithBackend("aot_eager")
    compiled = Compiled(model, "default", traced)
    for number, rows in enumerate([64, 64, 33, 2, 1, 0, 7, 128]):
        given = batch(rows, seed=number)
        assert torch.equal(compiled(given), model(given))
    assert traced.frame_count == 1


def test_autocast_is_compiled_in_and_logits_stay_float32():
    model = ranker({name: INPUTS[name] for name in DENSE}, "mask_net").eval()
    traced = CompileCounterWithBackend("aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        logits = Compiled(model, "default", traced)(batch(8))
        assert torch.allclose(logits, model(batch(8)), rtol=0.02, atol=0.02)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, model(batch(8)))
    assert traced.frame_count == 1


@pytest.fixture
def two_ranks() -> Iterator[None]:
    """A process group that claims two ranks: what others would send is what this one has."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


def test_batch_norms_over_the_rows_of_all_ranks_are_in_the_graph(two_ranks: None):
    same_in_one_graph(ranker({name: INPUTS[name] for name in DENSE}, "mlp"), batch(8))


def test_gradients_of_kernels_are_as_near_to_float64_as_those_of_torchs_own():
    model = ranker({"log": INPUTS["clip_log1p_abs"]}, "dcn").eval()
    exact = gradients(ranker_in_float64(model), batch(32))
    for compiled, plain, true in zip(
        gradients(Compiled(model, "default"), batch(32)),
        gradients(model, batch(32)),
        exact,
        strict=True,
    ):
        error, allowed = ((x.double() - true).norm() / true.norm() for x in (compiled, plain))
        assert error < max(2e-6, 2 * allowed)


def ranker_in_float64(model: HeavyRanker) -> HeavyRanker:
    """A ranker of the same weights, in double precision."""
    wide = ranker({"log": INPUTS["clip_log1p_abs"]}, "dcn").eval().double()
    wide.load_state_dict(model.state_dict())
    return wide


@pytest.mark.parametrize("settings", [(), ("training.gradient_accumulation=2",)])
def test_a_compiled_run_ends_with_the_checkpoint_of_a_plain_one(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
):
    tiny.train(*settings, run="plain")
    traced = functools.partial(Compiled, backend="aot_eager")
    monkeypatch.setattr(parallel, "Compiled", traced)
    tiny.train(*settings, "training.compile=default", run="compiled")
    plain, compiled = tiny.state("plain"), tiny.state("compiled")
    assert repr(plain) == repr(compiled)
    assert tiny.logged("plain")["loss"] == tiny.logged("compiled")["loss"]
    # and it goes on without being compiled, as does the other one compiled
    tiny.train(*settings, "training.num_train_steps=8", run="compiled")
    tiny.train(*settings, "training.num_train_steps=8", "training.compile=default", run="plain")
    assert tiny.logged("plain")["loss"] == tiny.logged("compiled")["loss"]
    assert len(tiny.logged("plain")["loss"]) == 8


def test_an_evaluation_is_not_compiled(tiny: Tiny):
    experiment = prepare(tiny.config("training.compile=default"))
    assert isinstance(experiment.parallel, Compiled)
    with torch.compiler.set_stance("fail_on_recompile"):
        evaluate(experiment.ranker, experiment.validation_data, experiment.training)


def test_cuda_graphs_without_a_gpu_are_refused(tiny: Tiny):
    message = (
        r"^training.compile=reduce-overhead: CUDA graphs are for GPUs, and training.device is cpu; "
        "choose default, or null"
    )
    with pytest.raises(ValueError, match=message):
        prepare(tiny.config("training.compile=reduce-overhead"))


def test_a_missing_compiler_is_told_before_training(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    message = (
        r"^training.compile=default: torch finds no C\+\+ compiler; install g\+\+, or name one in "
        "the environment as CXX, or set it to null"
    )
    with pytest.raises(ValueError, match=message):
        prepare(tiny.config("training.compile=default"))
