"""PyTorch as the oracle: the same weights give the same loss and every gradient."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import workbench as wb
from cython_kernels import tables
from workbench.engine.build import build
from workbench.model import initial_weights

torch = pytest.importorskip("torch", reason="the compare extra is not installed")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "peers"))
from torch_gpt import LanguageModel  # noqa: E402

pytestmark = pytest.mark.torch

BATCH, MICROBATCHES = 3, 2
MODELS = {
    "gpt": wb.Model.gpt(num_layers=3, width=48, num_heads=4, vocab_size=61, context=20),
    "tied": wb.Model.gpt(
        num_layers=3, width=48, num_heads=4, vocab_size=61, context=20, tied=True
    ),
    "llama": wb.Model.llama(
        num_layers=3, width=48, num_heads=6, num_kv_heads=2, vocab_size=61, context=20
    ),
}


def ours(model: wb.Model, data: wb.Data) -> tuple[dict[str, np.ndarray], ...]:
    """Weights, gradients and microbatch losses of one step over two stages."""
    job = wb.Job(
        model=model,
        partition=wb.Partition(model, boundaries=[0, 2, 5]),
        schedule=wb.Schedule.make("1f1b", num_ranks=2, num_microbatches=MICROBATCHES),
        data=data,
        microbatch_size=BATCH,
        steps=1,
        seed=5,
        optimizer=wb.SGD(lr=0.0),
        clip=None,
    )
    built = build(job, keep_gradients=True)
    fresh = initial_weights(model, job.seed)
    for (_, _, view), (_, _, values) in zip(built.weights(), fresh, strict=True):
        # Larger than usual, so that every path of the model matters.
        view[...] = values * 5 if values.std() else values
    built.copy_weights()
    losses, norms = np.zeros((1, MICROBATCHES)), np.zeros(1)
    rates, tokens = np.zeros(1, np.float32), data.train
    windows = len(tokens) - model.context
    size = tokens.dtype.itemsize
    built.engine.start(
        tables.TRAIN,
        0,
        1,
        tokens,
        tokens,
        size,
        windows,
        5,
        0,
        0,
        rates,
        losses,
        norms,
        0,
    )
    built.engine.finish()
    assert built.engine.error is None

    def named(views: list[tuple[int, str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {f"{model.layers[i].name}.{name}": v.copy() for i, name, v in views}

    return (
        named(built.weights()),
        named(built.gradients()),
        {"loss": losses, "norm": norms},
    )


@pytest.mark.parametrize("kind", MODELS)
def test_loss_and_every_gradient_agree_with_pytorch(kind: str) -> None:
    model = MODELS[kind]
    data = wb.Data.synthetic(vocab_size=61, size=4000, seed=1)
    weights, gradients, results = ours(model, data)
    peer = LanguageModel(model.config).double()
    peer.load(weights)
    starts = data.offsets(5, 0, BATCH * MICROBATCHES, model.context)
    windows = np.stack([data.train[s : s + model.context + 1] for s in starts]).astype(
        np.int64
    )
    batches = torch.from_numpy(windows).split(BATCH)
    losses = [peer.loss(b[:, :-1], b[:, 1:]) for b in batches]
    (sum(losses) / MICROBATCHES).backward()

    expected = [loss.item() for loss in losses]
    np.testing.assert_allclose(results["loss"][0], expected, rtol=2e-6)
    squares = 0.0
    for name, parameter in peer.named_parameters():
        want = parameter.grad.numpy()
        scale = np.abs(want).max()
        np.testing.assert_allclose(
            gradients[name], want, rtol=2e-4, atol=2e-5 * scale, err_msg=name
        )
        squares += float((want**2).sum())
    np.testing.assert_allclose(results["norm"][0], squares**0.5, rtol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weights_after_training_agree_with_pytorch(
    kind: str, name: str, tmp_path: Path
) -> None:
    model, steps = MODELS[kind], 4
    data = wb.Data.synthetic(vocab_size=61, size=4000, seed=1)
    optimizer = {"adamw": wb.AdamW(lr=1e-3), "sgd": wb.SGD(lr=0.1, momentum=0.9)}[name]
    job = wb.Job(
        model=model,
        partition=wb.Partition(model, boundaries=[0, 2, 5]),
        schedule=wb.Schedule.make("gpipe", num_ranks=2, num_microbatches=MICROBATCHES),
        data=data,
        microbatch_size=BATCH,
        steps=steps,
        seed=5,
        optimizer=optimizer,
        learning_rate=wb.WarmupCosine(warmup=2),
        clip=0.5,
        evaluate=0,
    )
    run = wb.launch(job, folder=tmp_path / "run", start=False)
    peer = LanguageModel(model.config).double()
    peer.load(run.weights())
    if name == "sgd":
        theirs = torch.optim.SGD(peer.parameters(), lr=0.1, momentum=0.9)
    else:
        decays = {
            f"{layer.name}.{p.name}": p.decay
            for layer in model.layers
            for p in layer.parameters
        }
        groups = [
            {"params": [p for n, p in peer.named_parameters() if decays[n] is wanted],
             "weight_decay": 0.1 if wanted else 0.0}
            for wanted in (True, False)
        ]  # fmt: skip
        theirs = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    for step in range(steps):
        for group in theirs.param_groups:
            group["lr"] = optimizer.lr * float(job.learning_rate.factors(steps)[step])
        starts = data.offsets(5, step, BATCH * MICROBATCHES, model.context)
        windows = np.stack([data.train[s : s + model.context + 1] for s in starts])
        batch = torch.from_numpy(windows.astype(np.int64))
        theirs.zero_grad()
        peer.loss(batch[:, :-1], batch[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 0.5)
        theirs.step()
    run.start().wait(60)
    for key, want in peer.named_parameters():
        found = run.weights()[key]
        np.testing.assert_allclose(found, want.detach().numpy(), rtol=1e-3, atol=2e-5)
