"""Temporal grounding: forward, prompts and loss are those of another implementation."""

import pytest
import torch
from torch import nn

from zopde import InputError
from zopde.nets import (
    FrameFeatures,
    GroundingModel,
    GroundingPrompts,
    recall_at,
    temporal_distance,
)

FRAMES, SIDE, BORDER, WIDTH, WORDS = 3, 64, 5, 16, 20


class MapsOf(nn.Module):
    """The other implementation's backbone: what is compared begins at its maps."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.channels = backbone, backbone.channels[-1]

    def forward(self, x):
        return self.backbone(x).feature_maps[0]


@pytest.fixture(scope="module")
def published():
    """TVP of the package transformers, small, with random weights everywhere."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.tvp import modeling_tvp

    backbone = transformers.ResNetConfig(
        **{"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"},
        out_features=["stage2"],
    )
    config = transformers.TvpConfig(
        **{"backbone_config": backbone, "hidden_size": WIDTH, "intermediate_size": 24},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": WORDS},
        **{"max_position_embeddings": 12, "num_frames": FRAMES, "max_img_size": SIDE},
        **{"max_grid_col_position_embeddings": 12, "max_grid_row_position_embeddings": 12},
        visual_prompt_size=BORDER,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = modeling_tvp.TvpForVideoGrounding(config).eval()
        for name, parameter in model.named_parameters():  # so that frames matter, too
            nn.init.normal_(parameter, std=1.0 if "vision" in name else 0.3)
    return model


def copied(pairs):
    """Copy parameters (ours, theirs)."""
    for ours, theirs in pairs:
        ours.data.copy_(theirs.reshape(ours.shape))


def modules_alike(ours, theirs):
    return [(ours.weight, theirs.weight), (ours.bias, theirs.bias)]


def same_model(published):
    """Ours, with its weights."""
    tvp, head = published.model, published.video_grounding_head
    ours = GroundingModel(MapsOf(tvp.vision_model.backbone), WORDS, WIDTH, 2, 4, 24, 12, 12).eval()
    text, cells = tvp.embeddings, tvp.visual_embeddings
    copied(
        [
            (ours.grid.weight, tvp.vision_model.grid_encoder_conv.weight),
            (ours.row.weight, cells.row_position_embeddings.weight),
            (ours.column.weight, cells.col_position_embeddings.weight),
            (ours.cell_type, cells.token_type_embeddings.weight[0]),
            (ours.word.weight, text.word_embeddings.weight),
            (ours.position.weight, text.position_embeddings.weight),
            (ours.word_type, text.token_type_embeddings.weight[0]),
            *modules_alike(ours.word_norm, text.layer_norm),
            *modules_alike(ours.cell_norm, cells.layer_norm),
            *modules_alike(ours.pool, tvp.pooler.dense),
            *modules_alike(ours.inner, head.layer_0),
            *modules_alike(ours.outer, head.layer_1),
        ]
    )
    for mine, its in zip(ours.encoder.layers, tvp.encoder.layer, strict=True):
        attention = its.attention
        into = [attention.query, attention.key, attention.value]
        copied(
            [
                (mine.self_attn.in_proj_weight, torch.cat([part.weight for part in into])),
                (mine.self_attn.in_proj_bias, torch.cat([part.bias for part in into])),
                *modules_alike(mine.self_attn.out_proj, attention.dense),
                *modules_alike(mine.norm1, attention.layer_norm),
                *modules_alike(mine.linear1, its.intermediate.dense),
                *modules_alike(mine.linear2, its.output.dense),
                *modules_alike(mine.norm2, its.output.layer_norm),
            ]
        )
    return ours


def cases(gen):
    """Two videos, and sentences of 6 and of 4 words."""
    frames = torch.randn(2, FRAMES, 3, SIDE, SIDE, generator=gen)
    words = torch.randint(1, WORDS, (2, 6), generator=gen)
    words[1, 4:] = 0
    return frames, words


@torch.no_grad()
def test_forward_and_prompts_are_those_of_transformers(published, gen):
    """The other is asked for one video at a time: with two its positions have no right shape."""
    frames, words = cases(gen)
    tvp = published.model
    prompted = GroundingPrompts(same_model(published), (FRAMES, 3, SIDE, SIDE), BORDER, 10, 1)
    its_picture = tvp.visual_prompter(torch.zeros(1, FRAMES, 3, SIDE, SIDE))[0]
    prompted.visual.copy_(its_picture.flatten(2)[:, :, prompted.places])
    assert torch.equal(prompted.picture(), its_picture)
    prompted.text.copy_(tvp.text_prompt[0])
    theirs = [
        published(
            input_ids=words[i : i + 1],
            pixel_values=frames[i : i + 1].clone(),
            attention_mask=(words[i : i + 1] != 0).long(),
        ).logits[0]
        for i in range(2)
    ]
    ours = prompted(frames, words)
    assert torch.allclose(ours, torch.stack(theirs), atol=1e-5)
    assert (ours[0] - ours[1]).abs().max() > 1e-3  # they do depend on what is asked
    # And on each prompt.
    for prompt in (prompted.visual, prompted.text):
        prompt.add_(0.5)
        assert (prompted(frames, words) - ours).abs().max() > 1e-3


def test_the_loss_is_that_of_transformers(gen):
    modeling = pytest.importorskip("transformers.models.tvp.modeling_tvp")
    found = torch.rand(40, 2, generator=gen)
    true = torch.rand(40, 2, generator=gen).sort(dim=1).values
    seconds, loss = torch.tensor([1.0]), modeling.TvpLoss(["iou", "distance", "duration"])
    terms = [
        loss(span[None], (seconds, start[None], end[None]))
        for span, (start, end) in zip(found, true, strict=True)
    ]
    sums = [term["iou"] + term["distance"] + 0.1 * term["duration"] for term in terms]
    assert torch.allclose(temporal_distance(found, true), torch.stack(sums).flatten(), atol=1e-5)


def test_the_loss_and_the_recall_of_spans_computed_by_hand_exact():
    true = torch.tensor([[0.2, 0.6], [0.2, 0.6], [0.2, 0.6], [0.0, 1.0]])
    found = torch.tensor([[0.2, 0.6], [0.4, 0.8], [0.8, 1.0], [0.9, 0.1]])
    # IoU 1, 1/3, 0 and, of a span that ends before it starts, 0.
    expected = [0 + 0.2 + 0.04, 2 / 3 + 0.2 + 0.04, 1 + 0.5 + 0.04, 1 + 0.2 + 0.1 * 1.8**2]
    assert temporal_distance(found, true).tolist() == pytest.approx(expected, abs=1e-6)
    assert recall_at(found, true, [0.3, 0.5, 1.0]) == [50.0, 25.0, 25.0]


def small_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GroundingModel(FrameFeatures(1, 4), 8, 8, 1, 2, 8, 6, 6)


@torch.no_grad()
def test_without_prompts_the_order_of_frames_is_forgotten(gen):
    """And a visual prompt that differs from frame to frame tells of it."""
    model, frames = small_model().eval(), torch.rand(2, 4, 1, 12, 12, generator=gen)
    words = torch.tensor([[1, 3, 4], [1, 5, 0]])
    prompted = GroundingPrompts(model, (4, 1, 12, 12), 2, 0, 1)
    assert torch.allclose(model(frames, words), prompted(frames, words))
    assert torch.allclose(model(frames, words), model(frames.flip(1), words), atol=1e-6)
    prompted.visual.copy_(torch.randn(prompted.visual.shape, generator=gen))
    forwards, backwards = prompted(frames, words), prompted(frames.flip(1), words)
    assert (forwards - backwards).abs().max() > 1e-5


@torch.no_grad()
def test_padding_behind_a_sentence_changes_nothing(gen):
    model, frames = small_model().eval(), torch.rand(1, 4, 1, 12, 12, generator=gen)
    short, padded = torch.tensor([[1, 3, 4]]), torch.tensor([[1, 3, 4, 0, 0]])
    assert torch.allclose(model(frames, short), model(frames, padded), atol=1e-6)


def test_only_the_prompts_are_trained_and_only_in_the_border(gen):
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prompted = GroundingPrompts(model, (4, 1, 12, 12), 2, 3, 1)
    trained = {n: p.numel() for n, p in prompted.named_parameters() if p.requires_grad}
    assert trained == {"visual": 4 * (144 - 64), "text": 3 * 8}
    optimiser = torch.optim.SGD([prompted.visual, prompted.text], 1.0)
    frames, words = torch.rand(2, 4, 1, 12, 12, generator=gen), torch.tensor([[1, 3], [1, 4]])
    prompted.train()
    assert not model.training
    prompted(frames, words).sum().backward()
    optimiser.step()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    picture = prompted.picture().detach()
    assert picture.abs().sum() > 0
    assert not picture[:, :, 2:-2, 2:-2].any()


def test_text_prompts_start_as_the_first_word(gen):
    model = small_model()
    prompted = GroundingPrompts(model, (4, 1, 12, 12), 0, 2, 1)
    first = model.sentence(torch.tensor([[1, 5]]))[0, 0]
    assert torch.equal(prompted.text.detach(), first.repeat(2, 1))
    assert not hasattr(prompted, "visual")


@pytest.mark.parametrize(
    ("what", "named"),
    [
        (lambda: GroundingModel(FrameFeatures(1, 4), 8, 8, 1, 3), "width"),
        (lambda: GroundingModel(FrameFeatures(1, 4), 8, 8, 0, 2), "depth"),
        (lambda: GroundingPrompts(small_model(), (4, 1, 12, 12), 6, 0, 1), "border"),
        (lambda: GroundingPrompts(small_model(), (4, 1, 12, 12), 1, -1, 1), "tokens"),
    ],
)
def test_impossible_sizes_are_refused(what, named):
    with pytest.raises(InputError, match=f"^{named}: got .*, expected "):
        what()
