import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from tiny import tiny

from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts.prototype_memory import PrototypeMemory
from resproto_fd.detectors.recce import WIDTHS as RECCE_WIDTHS
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.residual import ResidualLoss, gradient_scores, residual_features, similarity_logits

LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])  # split in two, one half is mostly real, the other forged only


def training_step(images, labels):
    """Gradients of a small encoder, the loss and the memory after a step, from this process's rows."""
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 5)).double()
    text = F.normalize(torch.randn(2, 5, dtype=torch.float64), dim=-1)
    loss, memory = ResidualLoss([100, 400]), PrototypeMemory(8, 5).double()
    residual = residual_features(F.normalize(encoder(images), dim=-1), text, labels, 0.3)
    logits, labels = gather_rows(similarity_logits(residual, text, 20.0)), gather_rows(labels)
    total = loss(logits, labels)
    total.backward()
    residual = gather_rows(residual.detach())
    memory.collect(residual, labels, gradient_scores(residual, text, 20.0, labels, loss))
    gradients = [p.grad for p in encoder.parameters()]
    return {"total": total.detach(), "gradients": gradients, "memory": memory.state_dict()}


def images():
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


HEADS = {
    "recce": {"dropout": 0.0},
    "iid": {"identities": 3},
    "core": {"pairs": "halves"},
    "gend": {key: value for key, value in tiny("gend").items() if key != "pretrained"},
}
"""Classes whose loss is no mean over samples, and which have no such test elsewhere."""


def step_of_head(name, rows, labels):
    """The loss of a head's training on made features, and its gradients."""
    torch.manual_seed(0)
    width = {"recce": sum(RECCE_WIDTHS), "iid": 1024, "core": 2048, "gend": 32}[name]
    detector = create_detector(name, pretrained=None, **HEADS[name]).double().train()
    whole = torch.randn(8, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    features = whole[rows].requires_grad_()
    total = detector.head(features, labels).losses["total"]
    total.backward()
    return {"total": total.detach(), "features": features.grad}


def run_process(rank, world, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    try:
        mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
        result = training_step(images()[mine], LABELS[mine])
        for gradient in result["gradients"]:  # what data parallelism does
            dist.all_reduce(gradient)
            gradient /= world
        # A loss of its own in each process: gradients of all of them reach the row.
        x = torch.full((2, 1), float(rank), dtype=torch.float64, requires_grad=True)
        rows = gather_rows(x)
        ((rank + 1) * (rows.flatten() * torch.arange(2.0 * world, dtype=torch.float64)).sum()).backward()
        result["rows"], result["row_gradient"] = rows.detach().flatten(), x.grad.flatten()
        rows = slice(rank * 8 // world, (rank + 1) * 8 // world)
        result["heads"] = {name: step_of_head(name, rows, LABELS[rows]) for name in HEADS}
        torch.save(result, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    mp.start_processes(run_process, args=(2, str(folder)), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
def test_two_processes_have_the_loss_and_the_gradients_of_one(results):
    alone = training_step(images(), LABELS)
    for result in results:
        torch.testing.assert_close(result["total"], alone["total"], rtol=1e-12, atol=1e-12)
        for ours, expected in zip(result["gradients"], alone["gradients"]):
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_the_memories_of_all_processes_are_equal_and_those_of_one(results):
    alone = training_step(images(), LABELS)["memory"]
    assert alone["count"].tolist() == [1, 4]
    for name, buffer in alone.items():
        assert torch.equal(results[0]["memory"][name], results[1]["memory"][name])
        torch.testing.assert_close(results[0]["memory"][name], buffer, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_rows_come_in_rank_order_and_gradients_of_different_losses_add_up(results):
    for rank, result in enumerate(results):
        assert result["rows"].tolist() == [0, 0, 1, 1]
        place = torch.arange(4.0, dtype=torch.float64)[2 * rank : 2 * rank + 2]
        torch.testing.assert_close(result["row_gradient"], (1 + 2) * place)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_heads_that_couple_the_batch_see_all_of_it(results, name):
    alone = step_of_head(name, slice(None), LABELS)
    parts = [result["heads"][name] for result in results]
    torch.testing.assert_close(sum(part["total"] for part in parts) / 2, alone["total"], rtol=1e-9, atol=0)
    # Gradients of parameters are averaged over the processes.
    found = torch.cat([part["features"] for part in parts]) / 2
    torch.testing.assert_close(found, alone["features"], rtol=1e-9, atol=1e-12)


def test_one_process_gathers_the_tensor_itself():
    x = torch.randn(3, 2)
    assert gather_rows(x) is x
