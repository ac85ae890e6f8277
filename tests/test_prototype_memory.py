import io
import json
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import quick_and_slow
from torch._subclasses.fake_tensor import FakeTensorMode

from resproto_fd.detectors.parts.kmeans import kmeans
from resproto_fd.detectors.parts.prototype_memory import PrototypeMemory
from resproto_fd.losses.residual import ResidualLoss, gradient_scores

GOLDEN = json.loads((Path(__file__).parent / "golden" / "resproto_fd.json").read_text())
PRECISION = {torch.float64: {"rtol": 1e-9, "atol": 1e-9}, torch.float32: {"rtol": 1e-4, "atol": 1e-5}}


class LoopMemory:
    """One class of the memory as the specification words it, in plain Python."""

    def __init__(self, capacity, gamma):
        self.capacity, self.gamma, self.entries = capacity, gamma, []  # [prototype, score, dwell]

    def update(self, candidates, score):
        if not candidates:
            return
        for entry in self.entries:
            entry[2] += 1
        older = set(range(len(self.entries)))
        for candidate in candidates:
            if len(self.entries) < self.capacity:
                self.entries.append([candidate, score, 0])
            elif older:
                value, slot = min((self.entries[j][1] * self.gamma ** self.entries[j][2], j) for j in older)
                if score >= value:
                    self.entries[slot] = [candidate, score, 0]
                    older.remove(slot)


def assert_holds(memory, label, prototypes, scores, dwell, **precision):
    """The slots of one class, in order, are these, and the rest are unfilled."""
    n = len(scores)
    assert memory.count[label] == n
    assert memory.dwell[label, :n].tolist() == dwell
    dtype = memory.scores.dtype
    torch.testing.assert_close(memory.scores[label, :n], torch.tensor(scores, dtype=dtype), **precision)
    if n:
        torch.testing.assert_close(memory.prototypes[label, :n], torch.tensor(prototypes, dtype=dtype), **precision)
    assert not memory.prototypes[label, n:].any()


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("case", GOLDEN["memory"], ids=lambda case: case["name"])
def test_the_golden_update_sequences_are_reproduced(case, label, dtype):
    memory = PrototypeMemory(case["capacity"], len(case["prototypes"][0]), case["gamma"]).to(dtype)
    for step in case["steps"]:
        memory.update(label, torch.tensor(step["candidates"], dtype=dtype), step["score"])
    assert_holds(memory, label, case["prototypes"], case["scores"], case["dwell"], **PRECISION[dtype])
    assert memory.count[1 - label] == 0


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("case", GOLDEN["inference"], ids=lambda case: case["name"])
def test_the_golden_scores_are_reproduced(case, dtype):
    prototypes, labels = torch.tensor(case["prototypes"], dtype=dtype), torch.tensor(case["prototype_labels"])
    memory = PrototypeMemory(len(prototypes) + 3, prototypes.shape[1]).to(dtype)
    for label in (0, 1):
        memory.update(label, prototypes[labels == label], 1.0)
    scores = memory.score(torch.tensor(case["image_features"], dtype=dtype), case["k"], case["temperature"])
    assert scores.dtype == dtype
    torch.testing.assert_close(scores, torch.tensor(case["score"], dtype=dtype), **PRECISION[dtype])


def test_the_golden_file_holds_all_memory_and_inference_cases():
    assert len(GOLDEN["memory"]) == 5
    assert len(GOLDEN["inference"]) == 5


@pytest.mark.parametrize("seed", quick_and_slow(range(12), range(4)))
def test_random_updates_equal_the_loop(seed):
    """Parts that append and parts that replace in one update, ties, more candidates than slots, invalid ones."""
    rng = random.Random(seed)
    capacity, gamma = rng.choice([1, 2, 3, 7]), rng.choice([1.0, 0.9, 0.5])
    memory = PrototypeMemory(capacity, 3, gamma).double()
    loops = [LoopMemory(capacity, gamma), LoopMemory(capacity, gamma)]
    for step in range(40):
        label, k = rng.randrange(2), rng.choice([0, 1, 2, 4, 9])
        candidates = [[float(step), float(i), rng.random()] for i in range(k)]
        valid = [rng.random() < 0.7 for _ in range(k)]
        score = float(rng.randrange(4)) if rng.random() < 0.5 else 4 * rng.random()
        as_tensors = rng.random() < 0.5
        memory.update(
            torch.tensor(label) if as_tensors else label,
            torch.tensor(candidates, dtype=torch.float64).reshape(k, 3),
            torch.tensor(score, dtype=torch.float64) if as_tensors else score,
            torch.tensor(valid, dtype=torch.bool),
        )
        loops[label].update([c for c, v in zip(candidates, valid) if v], score)
        for c, loop in enumerate(loops):
            prototypes, scores, dwell = ([entry[i] for entry in loop.entries] for i in range(3))
            assert_holds(memory, c, prototypes, scores, dwell, rtol=0, atol=0)


def test_candidates_of_one_update_never_evict_each_other():
    memory = PrototypeMemory(3, 1)
    memory.update(1, torch.tensor([[1.0], [2.0]]), 5.0)
    memory.update(1, torch.tensor([[3.0], [4.0], [5.0], [6.0], [7.0]]), 9.0)  # one appends, two replace, two stay out
    assert memory.prototypes[1].flatten().tolist() == [4, 5, 3]
    assert memory.dwell[1].tolist() == [0, 0, 0]


def test_a_candidate_of_equal_score_replaces_the_lowest_slot_and_a_weaker_one_nothing():
    memory = PrototypeMemory(2, 1, gamma=1.0)
    memory.update(0, torch.tensor([[1.0], [2.0]]), 5.0)
    memory.update(0, torch.tensor([[3.0]]), 4.999)
    assert memory.prototypes[0].flatten().tolist() == [1, 2]
    memory.update(0, torch.tensor([[3.0]]), 5.0)
    assert memory.prototypes[0].flatten().tolist() == [3, 2]
    assert memory.dwell[0].tolist() == [0, 2]


@pytest.mark.parametrize("candidate, score", [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_what_is_not_finite_never_enters_and_is_no_update(candidate, score):
    memory = PrototypeMemory(2, 1)
    memory.update(1, torch.tensor([[7.0]]), 1.0)
    before = {name: buffer.clone() for name, buffer in memory.state_dict().items()}
    memory.update(1, torch.tensor([[candidate]]), score)
    assert all(torch.equal(before[name], buffer) for name, buffer in memory.state_dict().items())


def batch(size=24, dim=8, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (size,), generator=generator)
    return torch.randn(size, dim, generator=generator, dtype=dtype), labels


def test_a_batch_offers_the_real_mean_and_the_forged_centres():
    residual, labels = batch()
    memory, expected = PrototypeMemory(6, 8).double(), PrototypeMemory(6, 8).double()
    memory.collect(residual, labels, torch.tensor([2.0, 3.0]), clusters=3)
    expected.update(0, residual[labels == 0].mean(0, keepdim=True), 2.0)
    expected.update(1, kmeans(residual[labels == 1], None, 3)[0], 3.0)
    assert memory.count.tolist() == [1, 3]
    for name, buffer in memory.state_dict().items():
        torch.testing.assert_close(buffer, expected.state_dict()[name])


@pytest.mark.parametrize("present", [0, 1])
def test_a_class_absent_from_the_batch_is_left_alone(present):
    memory = PrototypeMemory(8, 8)
    memory.update(0, torch.ones(1, 8), 1.0)
    memory.update(1, torch.ones(1, 8), 1.0)
    residual, _ = batch(dtype=torch.float32)
    absent = 1 - present
    before = {name: buffer[absent].clone() for name, buffer in memory.state_dict().items()}
    memory.collect(residual, torch.full((24,), present), torch.tensor([5.0, 5.0]))
    assert all(torch.equal(before[name], buffer[absent]) for name, buffer in memory.state_dict().items())
    assert memory.dwell[present, 0] == 1
    assert memory.count[present] > 1


def test_the_same_batches_give_the_same_memory_to_the_bit():
    memories = [PrototypeMemory(6, 8), PrototypeMemory(6, 8)]
    for memory in memories:
        for seed in range(5):
            residual, labels = batch(seed=seed, dtype=torch.float32)
            memory.collect(residual, labels, torch.tensor([1.0, 2.0]) + seed)
            torch.rand(seed + 1)  # the global generator must not matter
    for name, buffer in memories[0].state_dict().items():
        assert torch.equal(buffer, memories[1].state_dict()[name])


@pytest.mark.slow
def test_the_whole_step_reads_nothing_back_to_the_host():
    """Fake tensors hold no data: anything that asks for a value, or whose shape depends on one, raises."""
    with FakeTensorMode():
        memory, loss = PrototypeMemory(6, 8), ResidualLoss([1, 4])
        residual, labels = torch.randn(24, 8), torch.zeros(24, dtype=torch.long)
        scores = gradient_scores(residual, torch.randn(2, 8), torch.tensor(9.0), labels, loss)
        memory.collect(residual, labels, scores)
        memory.update(torch.tensor(1), torch.randn(3, 8), torch.tensor(2.0))
        assert memory.score(residual).shape == (24,)
        assert len(memory.diagnostics()) == 10
        with pytest.raises(Exception, match="_local_scalar_dense"):
            bool(memory.ready)


@pytest.mark.slow
def test_collecting_and_scoring_compile_to_one_graph():
    memory, eager = PrototypeMemory(6, 8), PrototypeMemory(6, 8)
    residual, labels = batch(dtype=torch.float32)

    def step(memory, residual, labels, scores):
        memory.collect(residual, labels, scores)
        return memory.score(residual)

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    for scores in torch.tensor([[1.0, 2.0], [3.0, 1.0]]):
        torch.testing.assert_close(compiled(memory, residual, labels, scores), step(eager, residual, labels, scores))
    for name, buffer in memory.state_dict().items():
        torch.testing.assert_close(buffer, eager.state_dict()[name])


def filled(capacity=6, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    memory = PrototypeMemory(capacity, dim)
    memory.update(0, torch.randn(capacity - 1, dim, generator=generator), 1.0)
    memory.update(1, torch.randn(capacity, dim, generator=generator), 2.0)
    return memory


def test_the_state_is_restored_from_a_file_loaded_with_weights_only():
    memory, file = filled(), io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert {name: tuple(buffer.shape) for name, buffer in state.items()} == {
        "prototypes": (2, 6, 8),
        "scores": (2, 6),
        "dwell": (2, 6),
        "count": (2,),
    }
    copy = PrototypeMemory(6, 8)
    copy.load_state_dict(state)
    features, labels = batch(dtype=torch.float32)
    for each in (memory, copy):
        each.collect(features, labels, torch.tensor([1.0, 3.0]))
    assert torch.equal(copy.score(features), memory.score(features))
    assert torch.equal(copy.dwell, memory.dwell)


def test_scoring_leaves_the_memory_as_it_was():
    memory = filled()
    before = {name: buffer.clone() for name, buffer in memory.state_dict().items()}
    memory.score(batch(dtype=torch.float32)[0])
    assert all(torch.equal(before[name], buffer) for name, buffer in memory.state_dict().items())


def test_scores_do_not_depend_on_the_batch_or_on_autocast():
    memory = filled()
    features, _ = batch(dtype=torch.float32)
    scores = memory.score(features, k=5)
    one_by_one = torch.cat([memory.score(row[None], k=5) for row in features.flip(0)]).flip(0)
    torch.testing.assert_close(one_by_one, scores)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(memory.score(features, k=5), scores)


def test_several_k_from_one_product_equal_as_many_calls():
    memory = filled()
    features, _ = batch(dtype=torch.float32)
    similarities = memory.similarities(features)
    for k, temperature in [(1, 1.0), (5, 0.1), (64, 1.0)]:
        shared = memory.forged_share(similarities, k, temperature)
        assert torch.equal(shared, memory.score(features, k, temperature))
    assert memory.forged_share(similarities, 1).unique().tolist() == [0, 1]


def test_a_memory_not_full_scores_by_what_it_holds():
    memory = PrototypeMemory(64, 4)
    features = F.normalize(batch(dim=4, dtype=torch.float32)[0], dim=-1)
    assert not memory.ready
    assert (memory.score(features) == 0.5).all()
    memory.update(1, torch.eye(4)[:1], 1.0)
    assert not memory.ready
    assert (memory.score(features) == 1).all()
    memory.update(0, torch.eye(4)[1:2], 1.0)
    assert memory.ready
    expected = features[:, :2].softmax(1)[:, 0]
    torch.testing.assert_close(memory.score(features), expected)


def test_prototypes_of_equal_similarity_are_taken_in_the_order_of_their_slots():
    memory = PrototypeMemory(3, 2)
    for label in (1, 0):
        memory.update(label, torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]]), 1.0)
    assert memory.score(torch.tensor([[1.0, 1.0]]), k=3).item() == 0
    assert memory.score(torch.tensor([[1.0, 1.0]]), k=4).item() == pytest.approx(0.25)


def test_diagnostics_describe_each_class():
    memory = PrototypeMemory(4, 2)
    assert all(value == 0 for value in memory.diagnostics().values())
    memory.update(0, torch.tensor([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0]]), 2.0)
    memory.update(0, torch.tensor([[0.0, 1.0]]), 6.0)
    memory.update(1, torch.tensor([[5.0, 0.0]]), 1.0)
    figures = {name: value.item() for name, value in memory.diagnostics().items()}
    assert figures == {
        "count_real": 4,
        "spread_real": pytest.approx((1 + 2 + 1 + 1 + 0 + 1) / 6),
        "age_real": 0.75,
        "score_real": 3,
        "fresh_real": 0.25,
        "count_forged": 1,
        "spread_forged": 0,
        "age_forged": 0,
        "score_forged": 1,
        "fresh_forged": 1,
    }


def test_arguments_out_of_range_are_refused():
    for wrong in [(0, 4, 0.9), (4, 0, 0.9), (4, 4, 0.0), (4, 4, 1.1)]:
        with pytest.raises(ValueError, match="expected capacity"):
            PrototypeMemory(*wrong)
    memory = PrototypeMemory(4, 3)
    with pytest.raises(ValueError, match="expected label 0"):
        memory.update(2, torch.zeros(1, 3), 1.0)
    with pytest.raises(ValueError, match=r"expected candidates \[k, 3\], got \[1, 4\]"):
        memory.update(1, torch.zeros(1, 4), 1.0)
    with pytest.raises(ValueError, match=r"expected valid \[1\], got \[2\]"):
        memory.update(1, torch.zeros(1, 3), 1.0, torch.ones(2, dtype=torch.bool))
    for wrong in [{"k": 0}, {"temperature": 0.0}]:
        with pytest.raises(ValueError, match="expected k >= 1"):
            memory.score(torch.zeros(1, 3), **wrong)


@pytest.mark.gpu
def test_no_gpu_operation_of_the_step_waits_for_the_host():
    memory, loss = PrototypeMemory(6, 8).cuda(), ResidualLoss([1, 4]).cuda()
    residual, labels = (tensor.cuda() for tensor in batch(dtype=torch.float32))
    text, tau = torch.eye(2, 8).cuda(), torch.tensor(9.0).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        memory.collect(residual, labels, gradient_scores(residual, text, tau, labels, loss))
        memory.update(1, residual[:2], 1.0)
        memory.score(residual)
        memory.diagnostics()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert memory.count.tolist() == [1, 6]
