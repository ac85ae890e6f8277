"""GM-DF: its equations against loops in float64, its meta-learning step by hand, its switches."""

import copy
import math

import pytest
import torch
from made import made_config, made_dataset
from test_trainer import make_trainer
from tiny import IMAGES, LABELS, TINY_TIMM_CLIP, TINY_VIT
from torch import nn

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts.domain_tower import DomainNorm, Experts, propagated, run_tower
from resproto_fd.detectors.parts.masked_modelling import MaskedModelling, masked_mean, token_loss
from resproto_fd.detectors.parts.meta_sets import meta_sets
from resproto_fd.losses.domains import alignment_loss, classification_loss, consistency_loss

DOMAIN = torch.tensor([0, 1, 1, 0, 2, 2])
KEYWORDS = {**TINY_VIT, "domains": ["A", "B", "C"], "second_order": [1], "mim_tokens": 16, "domain_size": 4}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(seed: int = 0, **keywords):
    torch.manual_seed(seed)
    return create_detector("gm_df", **{**KEYWORDS, **keywords})


def stirred(detector, seed: int = 1):
    """What starts as nought is drawn too, so that every path counts."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in detector.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return detector


# --- equations -------------------------------------------------------------------------------------------------------


def test_domain_norm_is_equation_2_and_starts_as_the_layer_norm():
    plain = nn.LayerNorm(6).double()
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    norm, x, c = DomainNorm(plain, 3).double(), draw(2, 4, 6), draw(2, 3, seed=1)
    torch.testing.assert_close(norm(x, c), plain(x))
    norm.to_weight.data, norm.to_bias.data = draw(6, 3, seed=2), draw(6, 3, seed=3)
    for b in range(2):
        for t in range(4):
            row = x[b, t]
            mean = sum(row) / 6
            deviation = torch.sqrt(sum((value - mean) ** 2 for value in row) / 6 + plain.eps)
            for i in range(6):
                scale = plain.weight[i] + sum(norm.to_weight[i, k] * c[b, k] for k in range(3))
                shift = plain.bias[i] + sum(norm.to_bias[i, k] * c[b, k] for k in range(3))
                torch.testing.assert_close(norm(x, c)[b, t, i], (row[i] - mean) / deviation * scale + shift)


def test_experts_are_equations_1_4_and_5():
    experts, x = Experts(3, 5, 2).double(), draw(2, 5)
    assert not experts(x).any()  # the shared function alone, at first
    experts.up.data = draw(3, 2, 5, seed=1)
    for b in range(2):
        views = []
        for n in range(3):
            hidden = x[b] @ experts.down[n] + experts.down_bias[n]
            views.append((hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))) @ experts.up[n])
        torch.testing.assert_close(experts.views(x)[b], torch.stack(views))
        mixed = []
        for query in views:
            chances = torch.stack([(query @ key) / math.sqrt(5) for key in views]).exp()
            mixed.append(sum(c / chances.sum() * value for c, value in zip(chances, views, strict=True)))
        torch.testing.assert_close(experts(x)[b], sum(mixed) / 3)


def test_second_order_features_are_equation_7():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2, batch_first=True).double()
    weights, said = draw(2, 2, 4).softmax(-1), draw(2, 4, 6, seed=1)
    value, out = attention.in_proj_weight[12:], attention.out_proj.weight
    for b in range(2):
        expected = torch.zeros(6, dtype=torch.float64)
        for h in range(2):
            rows = slice(3 * h, 3 * h + 3)
            joined = out[:, rows] @ value[rows]  # W_VO of the head
            for i in range(4):
                expected = expected + weights[b, h, i] * (joined @ said[b, i])
        torch.testing.assert_close(propagated(attention, weights, said)[b], expected)


def test_the_tower_is_clips_until_domains_matter_and_sums_second_order_features_as_equation_8():
    detector = make(experts=False).double().eval()
    torch.manual_seed(0)
    plain = create_detector("clip", **TINY_VIT).double().eval().clip
    detector.clip.load_state_dict({**detector.clip.state_dict(), **plain.state_dict()}, strict=False)
    images = IMAGES.double()
    torch.testing.assert_close(detector.encode(images), plain(images), atol=1e-9, rtol=1e-9)
    detector.shares[0].data.fill_(0.7)
    found = run_tower(detector.clip.visual, images, detector.domain_embeddings[torch.zeros(6, dtype=int)], [1])
    z = found.cls + 0.7 * detector.norms[0](found.second_order[0])
    expected = detector.clip.visual.ln_post(z) @ detector.clip.visual.proj
    torch.testing.assert_close(detector.encode(images), expected)
    assert not torch.allclose(detector.encode(images), plain(images))


def test_post_norm_is_equation_3():
    detector = stirred(make(norm="post", second_order=[])).double().eval()
    visual, domain = detector.clip.visual, detector.domain_embeddings[DOMAIN + 1]
    x = visual._embeds(IMAGES.double())
    for block in visual.transformer.resblocks:
        attended = block.attn(x, x, x, need_weights=False)[0]
        x = block.ln_1(attended + x)
        x = block.ln_2(block.mlp(x), domain) + x
    found = run_tower(visual, IMAGES.double(), domain, norm="post")
    torch.testing.assert_close(found.cls, x[:, 0])
    torch.testing.assert_close(found.patches, x[:, 1:])


def test_prompts_are_equation_9():
    detector = make().double()
    found = detector.prompts()
    text = detector.clip.text
    ids = detector.clip.tokenizer(["a x x face showing forgery clues"])[0]
    assert ids[2] == ids[3] == detector.clip.tokenizer(["x"])[0, 1]
    for d in range(4):
        for c in range(2):
            rows = text.token_embedding(ids).clone()
            rows[2], rows[3] = detector.domain_words[d], detector.class_words[c]
            x = text.transformer((rows + text.positional_embedding)[None], attn_mask=text.attn_mask)[0]
            u = text.ln_final(x)[ids.argmax()] @ text.text_projection
            torch.testing.assert_close(found[d, c], u / u.norm())


def test_the_class_words_start_as_the_words_real_and_fake():
    detector = make()
    for row, word in zip(detector.class_words, ("real", "fake"), strict=True):
        token = detector.clip.tokenizer([word])[0, 1]
        assert torch.equal(row, detector.clip.text.token_embedding.weight[token])


def test_temperatures_are_equation_10_and_stay_positive():
    detector = make()
    base = 1 / detector.clip.logit_scale.exp().item()
    detector.phi.data.fill_(0.3)
    expected = [base + 0.3 * math.sqrt(sum(float(x) ** 2 for x in row)) for row in detector.domain_words.tolist()]
    assert detector.temperatures().tolist() == pytest.approx(expected, rel=1e-5)
    detector.phi.data.fill_(-100)
    assert detector.temperatures().tolist() == pytest.approx([0.01] * 4)


def test_losses_are_equations_11_and_12():
    similar, temperatures = draw(6, 4, 2).tanh(), draw(4).abs() + 0.1
    domain, labels = DOMAIN + 1, LABELS
    sis = cls = 0.0
    for i in range(6):
        tau, d, c = temperatures[domain[i]].item(), domain[i], labels[i]
        every = sum(math.exp(similar[i, j, k].item() / tau) for j in range(4) for k in range(2)) + 1e-8
        sis -= math.log(math.exp(similar[i, d, c].item() / tau) / every) / 6
        pair = [math.exp(similar[i, d, k].item() / tau) for k in range(2)]
        cls -= math.log(pair[c] / sum(pair)) / 6
    assert consistency_loss(similar, domain, labels, temperatures).item() == pytest.approx(sis, abs=1e-12)
    assert classification_loss(similar, domain, labels, temperatures).item() == pytest.approx(cls, abs=1e-12)
    inputs = (similar.requires_grad_(), temperatures.requires_grad_())
    for loss in (consistency_loss, classification_loss):
        assert torch.autograd.gradcheck(lambda s, t, f=loss: f(s, domain, labels, t), inputs)


def test_alignment_is_the_distance_of_means_and_covariances():
    features, domain = draw(7, 3), torch.tensor([1, 1, 2, 2, 2, 1, 0])
    a, b = features[domain == 1], features[domain == 2]
    expected = sum((a.mean(0) - b.mean(0)) ** 2)
    for i in range(3):
        for j in range(3):
            spread = [((p[:, i] - p[:, i].mean()) * (p[:, j] - p[:, j].mean())).sum() / (len(p) - 1) for p in (a, b)]
            expected = expected + (spread[0] - spread[1]) ** 2
    torch.testing.assert_close(alignment_loss(features, domain, 3), expected)
    assert alignment_loss(features[:1], domain[:1], 3).item() == 0


def test_masked_modelling_is_equation_6_over_the_hidden_patches_alone():
    logits, tokens, mask = draw(2, 3, 4), torch.tensor([[0, 3, 1], [2, 2, 0]]), torch.tensor([[1, 0, 1], [0, 0, 1]])
    expected = 0.0
    for b, p in ((0, 0), (0, 2), (1, 2)):
        row = logits[b, p].tolist()
        expected -= math.log(math.exp(row[tokens[b, p]]) / sum(map(math.exp, row))) / 3
    assert masked_mean(token_loss(logits, tokens), mask.bool()).item() == pytest.approx(expected, abs=1e-12)
    assert masked_mean(token_loss(logits, tokens), torch.zeros(2, 3, dtype=bool)).item() == 0


def test_masked_modelling_hides_the_patches_it_asks_about():
    torch.manual_seed(0)
    masked = MaskedModelling(width=32, patch=8, tokens=16, hidden=8)
    detector, seen = make(), {}

    def tower(hidden):
        seen["mask"] = hidden[0]
        c = detector.domain_embeddings[torch.zeros(6, dtype=int)]
        return run_tower(detector.clip.visual, IMAGES, c, (), hidden).patches

    losses = masked(IMAGES, tower)
    assert set(losses) == {"mim", "pixels", "autoencoder"}
    assert 0 < seen["mask"].float().mean() < 1
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in masked.parameters())
    changed = IMAGES.clone()
    blocks = changed.unfold(2, 8, 8).unfold(3, 8, 8)
    for b, p in seen["mask"].nonzero().tolist():
        blocks[b, :, p // 4, p % 4] += 100
    c = detector.domain_embeddings[torch.zeros(6, dtype=int)]
    for images in (IMAGES, changed):
        seen[images is changed] = run_tower(detector.clip.visual, images, c, (), (seen["mask"], masked.token)).patches
    torch.testing.assert_close(seen[True], seen[False])


# --- the step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alignment", [0.0, 0.7])
def test_the_inner_and_outer_step_are_those_taken_by_hand(tmp_path, alignment):
    rate, beta = 0.1, 0.5
    config = made_config(
        epochs=1, batch_size=12, precision="fp64", run={"max_steps": 1},
        optimizer={"name": "sgd", "lr": rate, "momentum": 0.0},
    )  # fmt: skip
    config.detector.input.size = 32
    detector = stirred(make(mim=0.0, wildcard=0.0, inner_lr=beta, alignment=alignment))
    data = made_dataset(config, fields={"domain": torch.arange(36).remainder(2).numpy()})
    trainer = make_trainer(tmp_path, config, detector, data=data)
    by_hand = copy.deepcopy(trainer.detector).train()
    batch = data.__getitems__(next(iter(trainer.batches)))
    images, labels, domain = trainer.normalise(batch["image"]), batch["label"], batch["domain"]

    torch.manual_seed(0)
    held = domain.unique()[torch.randint(2**31, (1,)) % 2]
    torch.manual_seed(0)
    trainer.fit()

    train, test = domain != held, domain == held
    features = by_hand.encode(images[train], domain[train], alone=True)
    similar = torch.einsum("be,dce->bdc", nn.functional.normalize(features, dim=-1), by_hand.prompts())
    inner = classification_loss(similar, domain[train] + 1, labels[train], by_hand.temperatures())
    own = by_hand.inner_parameters()
    of_domains = (by_hand.domain_embeddings, by_hand.domain_words)
    for parameter, gradient in zip(own, torch.autograd.grad(inner, own, materialize_grads=True), strict=True):
        if any(parameter is other for other in of_domains):
            gradient[0] = 0  # the wildcard's
        parameter.data -= beta * gradient
    outer = by_hand.head(by_hand.encode(images[test], domain[test]), labels[test], domain[test]).losses["total"]
    both = nn.functional.normalize(by_hand.encode(images, domain), dim=-1)
    outer = outer + alignment * alignment_loss(both, domain, 3)
    rest = [p for p in by_hand.parameters() if p.requires_grad and all(p is not q for q in own)] + list(of_domains)
    for parameter, gradient in zip(rest, torch.autograd.grad(outer, rest), strict=True):
        if any(parameter is other for other in of_domains):
            gradient[1:] = 0  # theta_E's
        parameter.data -= rate * gradient
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(trainer.detector.state_dict()[name], value, atol=1e-9, rtol=1e-9, msg=name)


def test_of_one_domain_all_are_tested_on_and_of_several_each_is_held_out_in_turn():
    train, test = meta_sets(torch.zeros(6, dtype=int), 3)
    assert train.rows.tolist() == [0, 2, 4]
    assert test.rows.tolist() == [0, 1, 2, 3, 4, 5]
    sets = [meta_sets(DOMAIN, 3) for _ in range(60)]
    assert all(sorted([*train.rows, *test.rows]) == list(range(6)) for train, test in sets)
    assert all(train.weight == test.weight == 1 for train, test in sets)
    assert {tuple(test.rows.tolist()) for _, test in sets} == {(0, 3), (1, 2), (4, 5)}


def test_processes_hold_out_the_same_domain_and_weigh_their_images_alike(monkeypatch):
    shares = [torch.tensor(share) for share in ([0, 0, 1, 1], [0, 0, 0, 2])]
    held_out = set()
    for seed in range(20):
        drawn = [torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(seed + 50 * r)) for r in (0, 1)]
        rows = [torch.cat([share.bincount(minlength=3), own]) for share, own in zip(shares, drawn, strict=True)]
        monkeypatch.setattr("resproto_fd.detectors.parts.meta_sets.gather_host", lambda own: torch.stack(rows))  # noqa: B023
        for part in (0, 1):  # meta-train, meta-test
            sets = [meta_sets(share, 3)[part] for share in shares]
            used = [(share[s.rows], s.weight) for share, s in zip(shares, sets, strict=True) if s.weight]
            if part == 1:
                (held,) = {int(value) for values, _ in used for value in values}
                held_out.add(held)
            whole = sum((share == held).sum() if part else 0 for share in shares) if part else None
            assert sum(weight for _, weight in used) / 2 == pytest.approx(1)
            assert whole is None or whole == sum(len(values) for values, _ in used)
    assert held_out == {0, 1, 2}


def test_an_unknown_domain_is_the_wildcard():
    detector = stirred(make()).eval()
    with torch.no_grad():
        wild, none = (detector.encode(IMAGES, domain) for domain in (torch.full((6,), -1), None))
        assert torch.equal(wild, none)
        assert not torch.allclose(wild, detector.encode(IMAGES, torch.zeros(6, dtype=int)), atol=1e-4)


@pytest.mark.parametrize(
    "switch",
    [
        {"experts": False},
        {"alignment": 0.5},
        *(
            pytest.param(switch, marks=pytest.mark.slow)
            for switch in ({"sis": False}, {"mim": 0.0}, {"second_order": []}, {"norm": "post"})
        ),
    ],
    ids=str,
)
def test_each_switch_changes_the_loss(switch):
    losses = []
    for keywords in ({}, switch):
        detector = make(wildcard=0.0, **keywords).train()
        for name, parameter in sorted(detector.named_parameters()):  # the same draw for what both have
            torch.manual_seed(sum(name.encode()))
            parameter.data += 0.05 * torch.randn_like(parameter)
        torch.manual_seed(0)
        losses.append(detector(IMAGES, LABELS, domain=DOMAIN).losses["total"].item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_without_meta_learning_the_step_is_a_plain_gradient(tmp_path):
    assert make().steps_alone
    plain = make(meta=False, mim=0.0, wildcard=0.0)
    assert not plain.steps_alone
    twin = copy.deepcopy(plain)

    class Step:
        autocast = staticmethod(lambda: torch.autocast("cpu", enabled=False))
        backward = staticmethod(lambda loss: loss.backward())

    plain.training_step(plain, Step, IMAGES, LABELS, domain=DOMAIN)
    twin(IMAGES, LABELS, domain=DOMAIN).losses["total"].backward()
    for one, other in zip(plain.parameters(), twin.parameters(), strict=True):
        assert one.grad is None if other.grad is None else torch.equal(one.grad, other.grad)


class PlainStep:
    """A step in full precision."""

    autocast = staticmethod(lambda: torch.autocast("cpu", enabled=False))
    backward = staticmethod(lambda loss: loss.backward())


@pytest.mark.parametrize("meta", [True, False])
def test_the_wildcards_word_and_embedding_learn(meta):
    detector = make(mim=0.0, meta=meta).train()
    optimizer = torch.optim.Adam([p for p in detector.parameters() if p.requires_grad], 1e-3)
    before = [p.detach().clone() for p in (detector.domain_words, detector.domain_embeddings)]
    for _ in range(5):
        detector.training_step(detector, PlainStep, IMAGES, LABELS, domain=DOMAIN)
        optimizer.step()
        optimizer.zero_grad()
    for was, now in zip(before, (detector.domain_words, detector.domain_embeddings), strict=True):
        assert (now - was).abs().amax(dim=1).gt(1e-6).all()


def test_of_a_domain_only_the_wildcard_learns_in_the_outer_step():
    detector = stirred(make(mim=0.0, inner_lr=0.0, wildcard=1.0)).train()
    detector.training_step(detector, PlainStep, IMAGES, LABELS, domain=DOMAIN)
    for parameter in (detector.domain_words, detector.domain_embeddings):
        assert parameter.grad[0].any()
        assert not parameter.grad[1:].any()
    assert detector.class_words.grad is None
    assert all(p.grad is None for p in detector.experts.parameters())


def test_domains_are_aligned_across_meta_train_and_meta_test():
    detector = stirred(make(mim=0.0, wildcard=0.0, alignment=1.0)).train()
    losses = [detector.training_step(detector, PlainStep, IMAGES, LABELS, domain=DOMAIN)["alignment"] for _ in range(3)]
    assert min(losses) > 1e-4


def test_the_prompts_of_table_6_stand_behind_the_domains_word():
    texts = {"P1": "x a photo of fake face", "P4": "x fake", "P7": "x fake face is in this photo"}
    for name, fake in texts.items():
        detector = make(prompt=name).double()
        found, text, ids = detector.prompts(), detector.clip.text, detector.clip.tokenizer([fake])[0]
        rows = text.token_embedding(ids).clone()
        rows[1] = detector.domain_words[2]
        x = text.transformer((rows + text.positional_embedding)[None], attn_mask=text.attn_mask)[0]
        u = text.ln_final(x)[ids.argmax()] @ text.text_projection
        torch.testing.assert_close(found[2, 1], u / u.norm())
        losses = detector.train()(IMAGES.double(), LABELS, domain=DOMAIN).losses
        losses["total"].backward()
        assert detector.class_words is None
        assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)


def test_without_dnorm_the_towers_norms_are_clips():
    detector = make(dnorm=False, mim=0.0, experts=False).train()
    assert detector.domain_embeddings is None
    assert torch.equal(detector.encode(IMAGES, DOMAIN), detector.encode(IMAGES))
    detector.training_step(detector, PlainStep, IMAGES, LABELS, domain=DOMAIN)
    assert not [name for name, _ in detector.named_parameters() if "to_weight" in name]


def test_the_minimum_strategy_hides_the_patches_of_least_variance():
    masked = MaskedModelling(width=32, patch=8, tokens=16, share=0.25, hidden=8, strategy="minimum")
    images = torch.randn(2, 3, 32, 32) * torch.linspace(1, 2, 32)
    patches = torch.nn.functional.unfold(images, 8, stride=8).transpose(1, 2)
    hidden = masked._hidden(patches)
    assert hidden.sum(dim=1).tolist() == [4, 4]
    for spread, chosen in zip(patches.var(dim=-1), hidden, strict=True):
        assert spread[chosen].max() <= spread[~chosen].min()


def test_another_tower_is_refused():
    with pytest.raises(UserError, match="expected a ViT of open_clip, got TimmModel"):
        create_detector("gm_df", **TINY_TIMM_CLIP)
