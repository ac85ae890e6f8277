import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from resproto_fd.detectors.parts.kmeans import kmeans


def random_batches(count, seed=0):
    """Batches of 5 to 200 points of 512 features: without clusters, few directions, clear and unequal clusters."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        n = int(rng.integers(5, 201))
        noise = rng.normal(size=(n, 512))
        if i % 4 == 0:
            yield noise
        elif i % 4 == 1:
            yield noise * np.exp(-np.arange(512) / 4)
        elif i % 4 == 2:
            centres = rng.normal(size=(int(rng.integers(2, 9)), 512)) * rng.uniform(0.2, 3)
            yield centres[rng.integers(0, len(centres), n)] + noise * rng.uniform(0.05, 1)
        else:
            points = rng.normal(size=(4, 512))[rng.choice(4, n, p=rng.dirichlet([0.5] * 4))] + 0.2 * noise
            yield points / np.linalg.norm(points, axis=1, keepdims=True)


def inertia(points, centres):
    return ((points[:, None] - centres) ** 2).sum(-1).min(1).sum()


def inertia_ratios(count):
    """Our inertia over scikit-learn's for each batch."""
    ratios = []
    for points in random_batches(count):
        reference = KMeans(4, init="k-means++", n_init=10, random_state=0).fit(points)
        centres, _, valid = kmeans(torch.from_numpy(points).float(), None, 4)
        assert valid.all()
        ratios.append(inertia(points, centres.numpy()) / reference.inertia_)
    return np.array(ratios)


@pytest.mark.slow
def test_inertia_is_within_one_percent_of_scikit_learn():
    assert inertia_ratios(24).mean() < 1.01


@pytest.mark.slow
def test_inertia_is_within_one_percent_of_scikit_learn_over_200_batches():
    ratios = inertia_ratios(200)
    assert ratios.mean() < 1.01
    assert ratios.max() < 1.05


def test_clear_clusters_are_found_and_ordered_by_size():
    generator = torch.Generator().manual_seed(1)
    truth = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [9, 9, 9]])
    label = torch.tensor([2] * 7 + [0] * 3 + [3] * 5 + [1] * 1)[torch.randperm(16, generator=generator)]
    points = truth[label] + 0.1 * torch.randn(16, 3, generator=generator)
    centres, sizes, valid = kmeans(points, None, 4)
    assert sizes.tolist() == [7, 5, 3, 1]
    assert valid.all()
    for centre, c in zip(centres, [2, 3, 0, 1]):
        torch.testing.assert_close(centre, points[label == c].mean(0))


def test_clusters_of_equal_size_come_in_the_order_of_their_lowest_member():
    points = torch.tensor([[5.0, 0], [0, 5], [5, 5], [0, 5], [5, 0], [5, 5], [9, 9]])
    centres, sizes, _ = kmeans(points, None, 4)
    assert centres.tolist() == [[5, 0], [0, 5], [5, 5], [9, 9]]
    assert sizes.tolist() == [2, 2, 2, 1]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("rows", [3, 9])
def test_fewer_points_than_clusters_are_each_their_own_centre(count, rows):
    points = torch.randn(rows, 6, generator=torch.Generator().manual_seed(rows))
    mask = torch.zeros(rows, dtype=torch.bool)
    mask[rows - count :] = True
    centres, sizes, valid = kmeans(points, mask, 4)
    assert sizes.tolist() == [1] * count + [0] * (4 - count)
    assert valid.tolist() == [True] * count + [False] * (4 - count)
    torch.testing.assert_close(centres[:count], points[rows - count :], rtol=0, atol=0)
    assert (centres[count:] == 0).all()


def test_an_empty_batch_has_no_centres():
    centres, sizes, valid = kmeans(torch.zeros(0, 6), None, 4)
    assert centres.shape == (4, 6)
    assert sizes.tolist() == [0] * 4
    assert not valid.any()


def test_small_batches_of_distinct_points_fill_every_cluster():
    generator = torch.Generator().manual_seed(2)
    for n in list(range(1, 12)) * 8:
        _, sizes, valid = kmeans(torch.randn(n, 5, generator=generator), None, 4)
        assert valid.sum() == min(4, n)
        assert sizes.sum() == n


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_duplicates_share_one_centre(offset):
    points = offset + torch.tensor([[0.1, 0.7, 0.2], [0.3, 0.1, 0.9]])[[0, 1, 1, 0, 1, 0, 1, 1, 0, 1]]
    centres, sizes, valid = kmeans(points, None, 4)
    assert sizes.tolist() == [6, 4, 0, 0]
    assert valid.tolist() == [True, True, False, False]
    torch.testing.assert_close(centres[:2], points[[1, 0]])
    assert kmeans(points[:1].expand(9, 3), None, 4)[1].tolist() == [9, 0, 0, 0]


def test_points_outside_the_mask_change_nothing_even_when_they_are_not_finite():
    points = torch.randn(40, 8, generator=torch.Generator().manual_seed(3))
    mask = torch.arange(40) % 3 > 0
    expected = kmeans(points, mask, 4)
    for ours, theirs in zip(kmeans(points[mask], None, 4), expected):
        torch.testing.assert_close(ours, theirs)
    points[~mask] = torch.tensor([float("nan"), float("inf"), -1e30, 1, 2, 3, 4, 5])
    for ours, theirs in zip(kmeans(points, mask, 4), expected):
        assert torch.equal(ours, theirs)


def test_the_centres_do_not_depend_on_random_state_or_on_gradients():
    points = torch.randn(60, 32, generator=torch.Generator().manual_seed(4))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = kmeans(points, None, 4)[0]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    second = kmeans(points.clone().requires_grad_(), None, 4)[0]
    assert torch.equal(first, second)
    assert not second.requires_grad


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_centres_are_float32_at_least(dtype, expected):
    assert kmeans(torch.eye(6, dtype=dtype), None, 4)[0].dtype == expected


def test_one_cluster_is_the_mean():
    points = torch.randn(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    centres, sizes, _ = kmeans(points, None, 1)
    torch.testing.assert_close(centres[0], points.mean(0))
    assert sizes.tolist() == [10]


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="k >= 1"):
        kmeans(torch.zeros(3, 2), None, 0)
    with pytest.raises(ValueError, match=r"mask \[N\]"):
        kmeans(torch.zeros(3, 2), torch.ones(4, dtype=torch.bool), 2)


@pytest.mark.gpu
def test_the_gpu_finds_the_same_clusters_as_the_cpu():
    for points in random_batches(12):
        points = torch.from_numpy(points).float()
        mask = torch.arange(len(points)) % 5 > 0
        cpu, gpu = kmeans(points, mask, 4), kmeans(points.cuda(), mask.cuda(), 4)
        assert torch.equal(cpu[1], gpu[1].cpu())
        torch.testing.assert_close(cpu[0], gpu[0].cpu())
