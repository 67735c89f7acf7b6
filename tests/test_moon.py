"""MOON against a second implementation by autograd, and against the known wrong versions of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from raf_ray.algorithms.interface import WEIGHTS
from raf_ray.algorithms.moon import Contrast, Moon, contrast
from raf_ray.errors import InputError, RunError
from raf_ray.request.assembly import prepare
from raf_ray.training.task import Step
from tests.quadratics import Quadratics
from tests.tiny import tiny

LR, MU, TAU = 0.2, 0.6, 0.5


class Net(nn.Module):
    """Features by one layer, the answer by another."""

    head_name = "head"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.base, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 1, 1)

    def features(self, images):
        return torch.tanh(self.base(images))

    def forward(self, images):
        return self.head(self.features(images))


class Pictures:
    """Two batches a pass at two sizes each, as a pyramid's levels are."""

    def __init__(self, seed: int, people: int = 4) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.batches = [torch.randn(people, 3, 8, 6, generator=rng) + seed for _ in range(2)]
        self.people, self.bad_pictures, self.breaks = people, 0, False

    def __len__(self):
        return self.people

    def epoch(self, rng):
        yield from self.batches

    def fault(self, rng):
        return None

    def step(self, model, batch, rng):
        if self.breaks:
            model(batch)
            raise RunError("broken by the test")
        loss = (model(batch) - 1).square().mean() + (model(batch[..., ::2, ::2]) - 1).square().mean()
        return Step(loss, len(batch), images=batch)


def pooled(net, batch):
    return net.features(batch).mean(dim=(2, 3))


def by_hand(task, start, previous):
    """A client's round by plain autograd, eq. 3 written out."""
    net = copy.deepcopy(start)
    for batch in task.batches:
        own = pooled(net, batch)
        with torch.no_grad():
            shared, old = pooled(start, batch), pooled(previous, batch)
        cosine = nn.CosineSimilarity(dim=1)
        near, far = torch.exp(cosine(own, shared) / TAU), torch.exp(cosine(own, old) / TAU)
        loss = task.step(net, batch, None).loss + MU * (-torch.log(near / (near + far))).mean()
        net.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= LR * parameter.grad
    return net


def flat(net) -> np.ndarray:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()]).double().numpy()


def check_rounds(algorithm) -> None:
    """Three rounds of two clients, each client and the mean as worked out by hand."""
    tasks = [Pictures(0), Pictures(1)]
    federation = Quadratics(algorithm, tasks, lr=LR, model=Net)
    shared = Net()
    previous = [shared, shared]
    for _ in range(3):
        ups = federation.round()
        previous = [by_hand(task, shared, old) for task, old in zip(tasks, previous, strict=True)]
        for client, net in zip(federation.clients, previous, strict=True):
            np.testing.assert_allclose(ups[client.name].vectors[WEIGHTS], flat(net) - flat(shared), atol=2e-6)
        mean = copy.deepcopy(shared)
        with torch.no_grad():
            for parameter, *own in zip(mean.parameters(), *(net.parameters() for net in previous), strict=True):
                parameter.copy_(sum(own) / 2)
        shared = mean
        np.testing.assert_allclose(federation.weights, flat(shared), atol=2e-6)


def test_rounds_are_equation_three_by_autograd():
    check_rounds(Moon(mu=MU, tau=TAU))


class Aliased(Contrast):
    """The global model is the one that trains."""

    def __init__(self, mu, tau, start):
        super().__init__(mu, tau, start)
        self._global = start.model


class Forgets(Contrast):
    """The last model is always the global one."""

    def __init__(self, mu, tau, start):
        super().__init__(mu, tau, start)
        self._previous = self._global


class Swapped(Contrast):
    """Drawn to its own last features."""

    def __init__(self, mu, tau, start):
        super().__init__(mu, tau, start)
        self._global, self._previous = self._previous, self._global


class LastLevel(Contrast):
    """Contrasts a lower level's features with the highest one's."""

    def loss(self, model, images, loss):
        self._features.reverse()
        return super().loss(model, images, loss)


@pytest.mark.parametrize("rule", [Aliased, Forgets, Swapped, LastLevel])
def test_the_check_finds_wrong_versions(rule):
    class Wrong(Moon):
        def local(self, start):
            return rule(self.mu, self.tau, start)

    with pytest.raises(AssertionError):
        check_rounds(Wrong(mu=MU, tau=TAU))


def test_the_contrast_of_two_features_that_are_as_near_is_the_logarithm_of_two():
    own = torch.tensor([[1.0, 0.0]])
    assert contrast(own, own, 3 * own, 0.5).item() == pytest.approx(np.log(2))
    # cos = 1 and -1 at temperature 0.5: log(1 + exp(-4))
    assert contrast(own, own, -own, 0.5).item() == pytest.approx(np.log1p(np.exp(-4)), rel=1e-5)


def test_without_its_term_it_is_fedavg_to_the_bit():
    from raf_ray.algorithms.fedavg import FedAvg

    found = []
    for algorithm in (Moon(mu=0.0), FedAvg()):
        federation = Quadratics(algorithm, [Pictures(0), Pictures(1)], lr=LR, model=Net)
        for _ in range(3):
            federation.round()
        found.append(federation.floats)
    assert np.array_equal(*found)


def test_a_round_that_fails_leaves_nothing_hooked_to_the_model():
    task = Pictures(0)
    federation = Quadratics(Moon(), [task], model=Net)
    task.breaks = True
    with pytest.raises(RunError, match="broken by the test"):
        federation.round()
    assert not federation.clients[0].model.head._forward_pre_hooks


@pytest.mark.parametrize(
    ("words", "says"),
    [(["model.name=tests.broken:OneConv"], "gives no features to contrast; choose a built-in model, or give yours"),
     (["resources.compile=true"], r"set resources\.compile=false")],
)  # fmt: skip
def test_what_it_cannot_be_combined_with_is_said_before_anything_starts(words, says):
    with pytest.raises(InputError, match=rf"algorithm\.name=moon: .*{says}"):
        prepare(tiny("algorithm.name=moon", *words))
