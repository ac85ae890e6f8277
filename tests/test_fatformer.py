"""FatFormer: wavelet bands, adapters in a frozen tower, texts that an image enhances, and its authors' checkpoints."""

import copy
import math

import open_clip
import pytest
import torch
from tiny import BACKBONES, IMAGES, LABELS, TEXT, TINY_RESNET, VIT, quick_and_slow, tiny
from torch import nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts.forgery_adapter import AdaptedBlock, ForgeryAdapter, FrequencyExtractor
from resproto_fd.detectors.parts.wavelet import haar_bands, haar_grid

GRID, WIDTH = 4, 32


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(**keywords):
    torch.manual_seed(0)
    return create_detector("fatformer", **{**tiny("fatformer"), **keywords})


def awake(detector):
    """The same detector in float64, with every lambda and every bias away from its first value."""
    detector = detector.double().eval()
    with torch.no_grad():
        for number, p in enumerate(detector.parameters()):
            if p.requires_grad:
                p.add_(0.3 * draw(*p.shape, seed=number))
    return detector


# --- wavelet bands ---------------------------------------------------------------------------------------------------


def test_the_bands_of_a_square_are_its_sum_and_its_differences():
    grid = torch.tensor([[1.0, 2.0], [4.0, 9.0]])[None, :, :, None]
    assert haar_bands(grid).flatten().tolist() == [8.0, -5.0, -3.0, 2.0]


@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (2, 2)])
def test_bands_are_those_of_slow_loops_and_give_the_grid_back(rows, columns):
    grid = draw(2, rows, columns, 3)
    found = haar_bands(grid)
    assert found.shape == (2, 4, rows * columns // 4, 3)
    for band, (across, down) in enumerate([(1, 1), (1, -1), (-1, 1), (-1, -1)]):  # signs of the second of two values
        for y in range(rows // 2):
            for x in range(columns // 2):
                a, b, c, d = (grid[:, 2 * y + i, 2 * x + j] for i in (0, 1) for j in (0, 1))
                wanted = (a + across * b + down * (c + across * d)) / 2
                torch.testing.assert_close(found[:, band, y * columns // 2 + x], wanted)
    torch.testing.assert_close(haar_grid(found, rows // 2), grid, atol=1e-14, rtol=0)
    torch.testing.assert_close(found.norm(), grid.norm())


def test_stripes_are_in_the_band_that_is_named_after_them():
    along_rows = torch.tensor([1.0, -1.0]).repeat(2).expand(4, 4)[None, :, :, None]
    for grid, alone in ((along_rows, 2), (along_rows.transpose(1, 2), 1)):
        sizes = haar_bands(grid).abs().sum(dim=(0, 2, 3))
        assert [band for band in range(4) if sizes[band] > 0] == [alone]


# --- adapters --------------------------------------------------------------------------------------------------------


def extractor(silent: str) -> FrequencyExtractor:
    """One of whose attentions adds nothing, and which does not normalise the bands together."""
    torch.manual_seed(0)
    found = FrequencyExtractor(WIDTH, GRID, 2, 0.0).double().eval()
    found.norm = nn.Identity()
    nn.init.zeros_(found.get_submodule(silent).out_proj.weight)
    return found


def changed(silent: str, change: torch.Tensor) -> torch.Tensor:
    """Which bands of which places a change of the bands [4, M] changes, [4, M]."""
    bands, part = draw(1, 4, 4, WIDTH), extractor(silent)
    grids = [haar_grid(given, 2).flatten(1, 2) for given in (bands, bands + change[None, :, :, None] * draw(WIDTH))]
    before, after = (haar_bands(part(grid).unflatten(1, (GRID, GRID))) for grid in grids)
    return ((after - before).abs().amax(dim=3) > 1e-6)[0]


@torch.no_grad()
def test_inter_band_attention_joins_the_bands_of_a_place_and_intra_band_attention_the_places_of_a_band():
    change = torch.zeros(4, 4, dtype=torch.float64)
    change[2, 1] = 1.0
    place, band = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    place[:, 1] = band[2] = True
    assert torch.equal(changed("intra", change), place)
    assert torch.equal(changed("inter", change), band)


@torch.no_grad()
def test_an_adapter_adds_the_image_extractor_and_lambda_times_the_frequency_extractor():
    torch.manual_seed(0)
    adapter, tokens = ForgeryAdapter(WIDTH, GRID, 8, 2, 0.1).double().eval(), draw(3, 17, WIDTH)
    image = 0.1 * adapter.image(tokens)
    torch.testing.assert_close(adapter(tokens), image, atol=0, rtol=0)  # lambda starts at 0
    adapter.share.fill_(0.5)
    added = adapter(tokens) - image
    assert not added[:, 0].any()
    torch.testing.assert_close(added[:, 1:], 0.5 * adapter.frequency(tokens[:, 1:]))


@torch.no_grad()
def test_each_adapter_stands_beside_the_mlp_of_the_last_block_of_its_stage():
    layout = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "layers": 4}, "text_cfg": TEXT}
    detector = awake(make(backbone=layout))
    visual = detector.clip.visual
    blocks = visual.transformer.resblocks
    assert [isinstance(block, AdaptedBlock) for block in blocks] == [False, True, False, True]
    x = visual._embeds(IMAGES.double())
    for block in blocks:
        plain = getattr(block, "block", block)
        between = x + plain.attn(plain.ln_1(x), plain.ln_1(x), plain.ln_1(x))[0]
        x = between + plain.mlp(plain.ln_2(between)) + (block.adapter(between) if plain is not block else 0)
    torch.testing.assert_close(detector.clip.tokens(IMAGES.double()), visual.ln_post(x) @ visual.proj)


@torch.no_grad()
def test_with_silent_adapters_the_class_token_is_clips_embedding():
    detector = awake(make())
    plain = copy.deepcopy(detector.clip)
    blocks = plain.visual.transformer.resblocks
    for number, block in enumerate(detector.clip.visual.transformer.resblocks):
        blocks[number] = blocks[number].block
        for p in (block.adapter.image[3].weight, block.adapter.image[3].bias, block.adapter.share):
            nn.init.zeros_(p)
    torch.testing.assert_close(detector.clip.tokens(IMAGES.double())[:, 0], plain(IMAGES.double()))


# --- texts and scores ------------------------------------------------------------------------------------------------


def slow_text(detector, name: str, seen: torch.Tensor) -> torch.Tensor:
    """The text of one class for one image, by all words of the text tower, [D]."""
    text, prompts = detector.clip.text, detector.prompts
    tokens = detector.clip.tokenizer([f"X X {name}."])
    words = text.token_embedding(tokens)
    words[0, 1:3] = prompts.enhance(prompts.context[None], seen[None])[0]
    x = text.transformer(words + text.positional_embedding, attn_mask=text.attn_mask)
    return text.ln_final(x)[0, tokens[0].argmax()] @ text.text_projection


@pytest.mark.parametrize("paper", quick_and_slow([True, False], [True]))
@torch.no_grad()
def test_the_score_is_the_softmax_of_cosines_with_the_texts_that_each_image_enhances(paper):
    detector = awake(make(paper=paper))
    output, tokens = detector(IMAGES.double(), LABELS), detector.clip.tokens(IMAGES.double())
    loss = 0.0
    for b, label in enumerate(LABELS.tolist()):
        texts = [slow_text(detector, name, tokens[b, 1:] if paper else tokens[b]) for name in ("real", "fake")]
        guided = detector.interact(tokens[b : b + 1, 1:], torch.stack(texts)[None])[0]
        guided = guided if paper else guided.mean(dim=0, keepdim=True)
        logits = []
        for text in texts:
            of_patches = [F.cosine_similarity(patch, text, dim=0).item() for patch in guided]
            both = F.cosine_similarity(tokens[b, 0], text, dim=0).item() + sum(of_patches) / len(of_patches)
            logits.append(math.exp(detector.clip.logit_scale.item()) * both)
        chance = 1 / (1 + math.exp(logits[0] - logits[1]))
        assert output.scores[b].item() == pytest.approx(chance, abs=1e-6)
        assert output.logits[b].tolist() == pytest.approx(logits, abs=1e-9)
        loss -= math.log(chance if label else 1 - chance) / len(LABELS)
    assert output.losses["total"].item() == pytest.approx(loss, abs=1e-9)


def test_clip_is_frozen_and_all_else_trains():
    detector = make().train()
    clip = {name: p.clone() for name, p in detector.clip.named_parameters() if ".adapter." not in name}
    trained = {name: p for name, p in detector.named_parameters() if p.requires_grad}
    assert {name for name, _ in detector.named_parameters()} - {f"clip.{name}" for name in clip} == set(trained)
    optimizer = torch.optim.Adam(trained.values(), 1e-3)
    for _ in range(2):  # the frequency extractors get a gradient as soon as lambda has moved
        optimizer.zero_grad()
        detector(IMAGES, LABELS).losses["total"].backward()
        optimizer.step()
    assert [name for name, p in trained.items() if not p.grad.any()] == []
    assert all(torch.equal(p, clip[name]) for name, p in detector.clip.named_parameters() if name in clip)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"adapters": 3}, r"expected a divisor of 2 layers, got 3; set model\.adapters"),
        ({"adapter_heads": 3}, r"divisor of the width 32, got 3 heads; set model\.adapter_heads"),
        ({"heads": 3}, r"divisor of the width 16, got 3 heads; set model\.heads"),
        ({"context": 21}, r"at most 20 context words, got 21; set model\.context"),
        (
            {"backbone": {**VIT, "vision_cfg": {**VIT["vision_cfg"], "image_size": 24}, "text_cfg": TEXT}},
            r"even numbers of patches, got 3 x 3.*set model\.backbone",
        ),
        (TINY_RESNET, "expected a ViT of open_clip, got ModifiedResNet"),
        (
            {"backbone": {**VIT, "text_cfg": {**TEXT, "no_causal_mask": True}}},
            r"expected CLIP's text tower, got TextTransformer.*set model\.backbone",
        ),
    ],
)
def test_what_does_not_fit_is_named(keywords, message):
    with pytest.raises(UserError, match=message):
        make(**keywords)


# --- the authors' checkpoints ----------------------------------------------------------------------------------------


class TheirAdapter(nn.Module):
    """An adapter under the authors' names: the wavelet as convolutions, one picture and one sequence at a time."""

    def __init__(self):
        super().__init__()
        self.first_conv_layer, self.second_conv_layer = nn.Conv1d(WIDTH, 8, 1), nn.Conv1d(8, WIDTH, 1)
        self.freq_scale, self.dwt_norm = nn.Parameter(torch.tensor([0.7])), nn.GroupNorm(WIDTH, WIDTH)
        self.intra_band, self.inter_band = nn.MultiheadAttention(WIDTH, 2), nn.MultiheadAttention(WIDTH, 2)
        self.linear1, self.linear2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm_intra, self.norm_inter, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.dwt_transform, self.idwt_transform = nn.Module(), nn.Module()
        self.dwt_transform.register_buffer("h0_col", torch.ones(1, 1, 2, 1))
        self.idwt_transform.register_buffer("g0_col", torch.ones(1, 1, 2, 1))

    def forward(self, tokens):
        kernels = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]).view(4, 1, 2, 2) / 2
        found = []
        for picture in tokens:
            maps = picture[1:].T.reshape(WIDTH, 1, GRID, GRID)
            x = self.dwt_norm(F.conv2d(maps, kernels, stride=2)[None].flatten(3))[0].permute(1, 2, 0)
            around = torch.stack([self.intra_band(*[x[:, place]] * 3)[0] for place in range(4)], dim=1)
            x = self.norm_intra(x + around)
            x = self.norm_inter(x + torch.stack([self.inter_band(*[band] * 3)[0] for band in x]))
            x = self.norm3(x + self.linear2(self.linear1(x).relu()))
            maps = F.conv_transpose2d(x.permute(2, 0, 1).unflatten(2, (2, 2)), kernels, stride=2)
            frequency = F.pad(maps.flatten(1).T, (0, 0, 1, 0))
            image = self.second_conv_layer(self.first_conv_layer(picture.T[None]).relu())[0].T
            found.append(0.1 * image + self.freq_scale * frequency)
        return torch.stack(found)


class Theirs(nn.Module):
    """The network of the authors' code under its names, with CLIP as OpenAI names it."""

    def __init__(self, layout, context=2):
        super().__init__()
        self.clip_model = open_clip.model.CLIP(**layout, quick_gelu=True)
        for block in self.clip_model.visual.transformer.resblocks:
            block.forgery_aware_adapter, kept = TheirAdapter(), []
            block.ln_2.register_forward_pre_hook(lambda _, given, kept=kept: kept.append(given[0]))
            block.register_forward_hook(
                lambda block, _, found, kept=kept: found + block.forgery_aware_adapter(kept.pop())
            )
        width = len(self.clip_model.ln_final.weight)
        aligned = self.language_guided_alignment = nn.Module()
        aligned.ctx = nn.Parameter(torch.randn(context, width))
        tokens = open_clip.tokenize(["X X real.", "X X fake."])[:, : self.clip_model.context_length]
        self.ends = tokens.argmax(dim=1).tolist()
        words = self.clip_model.token_embedding(tokens).detach() + 0.1
        aligned.register_buffer("token_prefix", words[:, :1])
        aligned.register_buffer("token_suffix", words[:, 1 + context :])
        aligned.patch_basaed_enhancer = nn.MultiheadAttention(width, 2)
        self.text_guided_interactor = nn.MultiheadAttention(width, 2)
        for part in (aligned, self):
            part.norm1, part.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            part.linear1, part.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.image_encoder, self.logit_scale = self.clip_model.visual, self.clip_model.logit_scale
        self.text_encoder = nn.Module()
        self.text_encoder.transformer = self.clip_model.transformer

    def forward(self, images):
        clip, aligned = self.clip_model, self.language_guided_alignment
        x = clip.visual.transformer(clip.visual._embeds(images))
        scores = []
        for tokens in clip.visual.ln_post(x) @ clip.visual.proj:
            context = self.refined(aligned, aligned.ctx, aligned.patch_basaed_enhancer(aligned.ctx, tokens, tokens)[0])
            texts = []
            for before, after, end in zip(aligned.token_prefix, aligned.token_suffix, self.ends, strict=True):
                words = torch.cat([before, context, after]) + clip.positional_embedding
                words = clip.transformer(words[None], attn_mask=clip.attn_mask)
                texts.append(clip.ln_final(words)[0, end] @ clip.text_projection)
            texts, patches = torch.stack(texts), tokens[1:]
            patches = self.refined(self, patches, self.text_guided_interactor(patches, texts, texts)[0])
            cosines = sum(F.cosine_similarity(each, texts, dim=1) for each in (tokens[0], patches.mean(dim=0)))
            scores.append((clip.logit_scale.exp() * cosines).softmax(dim=0)[1])
        return torch.stack(scores)

    @staticmethod
    def refined(part, x, added):
        x = part.norm1(x + added)
        return part.norm2(x + part.linear2(part.linear1(x).relu()))


@torch.no_grad()
def test_a_checkpoint_of_the_authors_scores_as_their_network():
    layout = {**BACKBONES["tiny_vit"], "embed_dim": 16}  # in their networks both towers end in one width
    torch.manual_seed(1)
    theirs, detector = Theirs(layout).eval(), make(backbone=layout).eval()
    for p in theirs.parameters():
        p.add_(0.1 * torch.randn_like(p))
    state = theirs.state_dict()
    assert {"image_encoder.proj", "logit_scale", "clip_model.logit_scale"} <= set(state)
    before, expected = detector(IMAGES).scores, theirs(IMAGES)
    assert detector.load_foreign(state) == "checkpoint of the method's authors"
    assert not detector.paper
    assert expected.std() > 1e-3 and (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(detector(IMAGES).scores, expected, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"clip\.visual\.transformer\.resblocks\.1\..*is missing"):
        detector.load_foreign({key: v for key, v in state.items() if "resblocks.1.forgery_aware" not in key})
