"""The UNet of Stable Diffusion 1 over diffusers' weights, with what does not change along a trajectory computed once.

Time embeddings become biases of convolutions, text becomes keys and values, and until the first cross-attention the
guided and the unguided half of a batch are the same images, which are computed once.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from .geglu import gated
from .group_norm import convolved, normalized
from .self_attention import attended, joined, split
from .upsample import FoldedUpsample

BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UNetMidBlock2DCrossAttn"}
# Of Stable Diffusion 1 and 2; another value means arithmetic that is not here.
EXPECTED = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "upcast_attention": False,
}

# Of the way up, where deep features are reused: these last layers are computed. At Stable Diffusion 1.4 they and the
# one of the way down that they read take 21 % of the operations of a guided evaluation; 3 would take 38 %, 1 takes 9 %.
SHALLOW_LAYERS = 2


class Unsupported(Exception):
    """A network with parts that this engine does not know."""


class KeysAndValues(NamedTuple):
    """Of one cross-attention for each image: (N, heads, tokens, width) each."""

    keys: Tensor
    values: Tensor


Layer = tuple[ResnetBlock2D, Transformer2DModel | None]
Layers = tuple[Layer, ...]


class Level(NamedTuple):
    """A block of the network: residual layers, some followed by an attention, and a change of resolution at the end."""

    layers: Layers
    resize: nn.Module | None


class EngineUNet(nn.Module):
    def __init__(self, network: UNet2DConditionModel) -> None:
        """Takes over a network that `refuse_other` passed; it cannot be called itself afterwards."""
        super().__init__()
        for block in network.up_blocks:
            if block.upsamplers is not None:
                block.upsamplers[0] = FoldedUpsample(block.upsamplers[0].conv)
        self.network = network
        self.down = [level_of(block, getattr(block, "downsamplers", None)) for block in network.down_blocks]
        self.middle = level_of(network.mid_block, None)
        self.up = [level_of(block, block.upsamplers) for block in network.up_blocks]
        for layer in self.transformer_layers():
            layer.attn1.qkv = fused(layer.attn1.to_q, layer.attn1.to_k, layer.attn1.to_v)
            del layer.attn1.to_q, layer.attn1.to_k, layer.attn1.to_v

    @property
    def smallest_side(self) -> int:
        """Latents along a side must be a multiple of this, so that every level has half of the one before."""
        halvings: int = 2 ** sum(level.resize is not None for level in self.up)
        return halvings

    @property
    def text_width(self) -> int:
        """Values in the keys and values of one token."""
        parts = ((layer.attn2.to_k, layer.attn2.to_v) for layer in self.transformer_layers())
        return sum(part.out_features for both in parts for part in both)

    def layers(self) -> Iterator[Layer]:
        """In the order in which `forward` meets them, which is not that of the network's modules."""
        for level in (*self.down, self.middle, *self.up):
            yield from level.layers

    def transformer_layers(self) -> Iterator[BasicTransformerBlock]:
        for _, attention in self.layers():
            if attention is not None:
                yield from attention.transformer_blocks

    def time_biases(self, timesteps: Tensor) -> Tensor:
        """A row for each of (S,) timesteps: the biases (C,) of the residual layers' first convolutions, in order."""
        network = self.network
        embedded = network.time_embedding(network.time_proj(timesteps).to(network.dtype))
        return torch.cat(
            [layer.conv1.bias + layer.time_emb_proj(F.silu(embedded)) for layer, _ in self.layers()], dim=1
        )

    def keys_and_values(self, text: Tensor) -> list[KeysAndValues]:
        """text (N, tokens, width): for each cross-attention in order."""
        found = []
        for layer in self.transformer_layers():
            heads = layer.attn2.heads
            found.append(KeysAndValues(*(split(part(text), heads) for part in (layer.attn2.to_k, layer.attn2.to_v))))
        return found

    def forward(self, latents: Tensor, biases: Tensor, texts: Sequence[KeysAndValues]) -> Tensor:
        """latents (N, 4, H, W), a row of `time_biases`, keys and values of N or 2 N texts; one output for each text."""
        return self.with_features(latents, biases, texts)[0]

    def with_features(self, latents: Tensor, biases: Tensor, texts: Sequence[KeysAndValues]) -> tuple[Tensor, Tensor]:
        """The output, and the deep features that `shallow` takes; both of each text."""
        bias, text = iter(self.split_biases(biases)), iter(texts)
        skips = [self.network.conv_in(latents)]
        for level in self.down:
            descend(level.layers, skips, bias, text)
            if level.resize is not None:
                skips.append(level.resize(skips[-1]))
        hidden = skips[-1]
        for layer in self.middle.layers:
            hidden = through(layer, hidden, bias, text)
        for level in self.up[:-1]:
            hidden = ascended(level.layers, hidden, skips, bias, text)
            if level.resize is not None:
                hidden = level.resize(hidden)
        deep, shallow = self.up[-1].layers[:-SHALLOW_LAYERS], self.up[-1].layers[-SHALLOW_LAYERS:]
        features = ascended(deep, hidden, skips, bias, text)
        return self.output(ascended(shallow, features, skips, bias, text)), features

    def shallow(self, latents: Tensor, features: Tensor, biases: Tensor, texts: Sequence[KeysAndValues]) -> Tensor:
        """The output with the deep features of an earlier evaluation (DeepCache: Ma et al. 2023).

        Computed are the last layers of the way up, and of the way down those whose outputs they read.
        """
        down, up = self.down[0].layers[: SHALLOW_LAYERS - 1], self.up[-1].layers[-SHALLOW_LAYERS:]
        every = self.split_biases(biases)
        bias = iter((*every[: len(down)], *every[-len(up) :]))
        text = iter((*texts[: count_texts(down)], *texts[len(texts) - count_texts(up) :]))
        skips = [self.network.conv_in(latents)]
        descend(down, skips, bias, text)
        return self.output(ascended(up, features, skips, bias, text))

    def split_biases(self, row: Tensor) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = row.split([layer.conv1.out_channels for layer, _ in self.layers()])
        return parts

    def output(self, hidden: Tensor) -> Tensor:
        found: Tensor = self.network.conv_out(normalized(hidden, self.network.conv_norm_out, has_silu=True))
        return found


def level_of(block: Any, resizers: nn.ModuleList | None) -> Level:
    """The middle block has one residual layer more than attentions, the others as many or no attention at all."""
    attentions = list(getattr(block, "attentions", ()))
    padded = attentions + [None] * (len(block.resnets) - len(attentions))
    return Level(tuple(zip(block.resnets, padded, strict=True)), None if resizers is None else resizers[0])


def refuse_other(network: UNet2DConditionModel) -> None:
    """Raises Unsupported."""
    config = network.config
    for name, value in EXPECTED.items():
        if getattr(config, name) != value:
            raise Unsupported(f"{name} is {getattr(config, name)!r}")
    if config.norm_num_groups is None:
        raise Unsupported("norm_num_groups is None")
    for name in (*config.down_block_types, config.mid_block_type, *config.up_block_types):
        if name not in BLOCKS:
            raise Unsupported(f"block {name}")


def fused(*parts: nn.Linear) -> nn.Linear:
    """Several layers of one input as one, whose output holds theirs side by side."""
    both = nn.Linear(parts[0].in_features, sum(part.out_features for part in parts), bias=False)
    assert all(part.bias is None for part in parts)
    both.weight = nn.Parameter(torch.cat([part.weight for part in parts]).detach(), requires_grad=False)
    return both


def count_texts(layers: Layers) -> int:
    """How many cross-attentions these layers have."""
    return sum(len(attention.transformer_blocks) for _, attention in layers if attention is not None)


def descend(layers: Layers, skips: list[Tensor], bias: Iterator[Tensor], text: Iterator[KeysAndValues]) -> None:
    """From the last of the skips; each layer's output becomes one."""
    for layer in layers:
        skips.append(through(layer, skips[-1], bias, text))


def ascended(
    layers: Layers, hidden: Tensor, skips: list[Tensor], bias: Iterator[Tensor], text: Iterator[KeysAndValues]
) -> Tensor:
    """Each layer uses up the last of the skips."""
    for layer in layers:
        joint = torch.cat([hidden, widened(skips.pop(), len(hidden))], dim=1)
        hidden = through(layer, joint, bias, text)
    return hidden


def through(layer: Layer, hidden: Tensor, bias: Iterator[Tensor], text: Iterator[KeysAndValues]) -> Tensor:
    inner = residual(layer[0], hidden, next(bias))
    return inner if layer[1] is None else with_text(layer[1], inner, text)


def widened(hidden: Tensor, count: int) -> Tensor:
    """The shared half for both halves of a guided batch."""
    return hidden if len(hidden) == count else torch.cat([hidden, hidden])


def residual(block: ResnetBlock2D, hidden: Tensor, bias: Tensor) -> Tensor:
    inner = convolved(normalized(hidden, block.norm1, has_silu=True), block.conv1.weight, bias, block.norm2)
    inner = block.conv2(inner)
    output: Tensor = inner + (hidden if block.conv_shortcut is None else block.conv_shortcut(hidden))
    return output


def with_text(block: Transformer2DModel, hidden: Tensor, text: Iterator[KeysAndValues]) -> Tensor:
    inner = normalized(hidden, block.norm, has_silu=False)
    is_linear = block.use_linear_projection
    tokens = block.proj_in(as_tokens(inner)) if is_linear else as_tokens(block.proj_in(inner))
    for layer in block.transformer_blocks:
        tokens = transformed(layer, tokens, next(text))
    count, (height, width) = len(tokens), hidden.shape[-2:]
    if is_linear:
        tokens = block.proj_out(tokens)
    image = tokens.reshape(count, height, width, -1).permute(0, 3, 1, 2)
    output: Tensor = image if is_linear else block.proj_out(image)
    return output + widened(hidden, count)


def as_tokens(hidden: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H W, C)."""
    return hidden.permute(0, 2, 3, 1).flatten(1, 2)


def transformed(layer: BasicTransformerBlock, tokens: Tensor, text: KeysAndValues) -> Tensor:
    """tokens of N images; where the texts are 2 N, the result is, too."""
    own, forward = layer.attn1, layer.ff.net
    tokens = tokens + own.to_out[0](attended(own.qkv(layer.norm1(tokens)), own.heads))
    query = split(layer.attn2.to_q(layer.norm2(tokens)), layer.attn2.heads)
    count = len(text.keys)
    seen = F.scaled_dot_product_attention(widened(query, count), text.keys, text.values)
    tokens = widened(tokens, count) + layer.attn2.to_out[0](joined(seen))
    after: Tensor = tokens + forward[2](gated(layer.norm3(tokens), forward[0].proj))
    return after
