"""pico's forward pass over the Hugging Face modules' own weights, written for speed on a CPU.

The numbers are those of ``Qwen3VLForConditionalGeneration`` (``export.verify`` compares them). What differs:

* Attention is plain matmuls: the *backward* of torch's fused CPU attention took half of a training step.
* One layer is compiled once and called with each layer's weights, so compilation takes seconds per shape.
* Several pictures share one policy. A row holds one policy and ``K`` scenes; a scene sees the policy and
  itself, never another scene. A policy's tokens are paid for once, and each scene gets the logits it would
  get alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from model import GRID, MERGE, PATCH, SIDE, TOKENS

Rope = tuple[Tensor, Tensor]


def attend(scores: Tensor, values: Tensor) -> Tensor:
    return scores.softmax(-1).to(values.dtype) @ values


def rotate(x: Tensor, rope: Rope) -> Tensor:
    cos, sin = rope
    half = x.shape[-1] // 2
    return x * cos.to(x.dtype) + torch.cat((-x[..., half:], x[..., :half]), -1) * sin.to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)


def vision_block(x: Tensor, rope: Rope, weights: tuple[Tensor, ...]) -> Tensor:
    """x [B, N, D]; every patch sees every patch."""
    n1, b1, qkv_w, qkv_b, out_w, out_b, n2, b2, up_w, up_b, down_w, down_b = weights
    batch, length, width = x.shape
    h = F.layer_norm(x, (width,), n1, b1, 1e-6)
    qkv = F.linear(h, qkv_w, qkv_b).view(batch, length, 3, -1, 32).permute(2, 0, 3, 1, 4)
    q, k = rotate(qkv[0], rope), rotate(qkv[1], rope)
    seen = attend((q * 32**-0.5) @ k.transpose(-1, -2), qkv[2])
    x = x + F.linear(seen.transpose(1, 2).reshape(batch, length, width), out_w, out_b)
    h = F.layer_norm(x, (width,), n2, b2, 1e-6)
    return x + F.linear(F.gelu(F.linear(h, up_w, up_b), approximate="tanh"), down_w, down_b)


def text_layer(
    x: Tensor, rope: Rope, hidden_keys: Tensor, scenes: int, weights: tuple[Tensor, ...]
) -> Tensor:
    """x [B, P + K*S, D]: P policy tokens, then K scenes of S tokens; hidden_keys [B, P] marks padding."""
    n1, wq, wk, wv, q_norm, k_norm, wo, n2, gate, up, down = weights
    batch, length, _ = x.shape
    dim, policy = q_norm.shape[0], hidden_keys.shape[1]
    span = (length - policy) // scenes
    h = rms_norm(x, n1, 1e-6)
    q = rotate(rms_norm(F.linear(h, wq).view(batch, length, -1, dim), q_norm, 1e-6).transpose(1, 2), rope)
    k = rotate(rms_norm(F.linear(h, wk).view(batch, length, -1, dim), k_norm, 1e-6).transpose(1, 2), rope)
    v = F.linear(h, wv).view(batch, length, -1, dim).transpose(1, 2)
    heads = q.shape[1]
    k, v = k.repeat_interleave(heads // k.shape[1], 1), v.repeat_interleave(heads // v.shape[1], 1)
    q = q * dim**-0.5

    def causal(size: int) -> Tensor:
        return torch.full((size, size), -1e4, dtype=q.dtype, device=q.device).triu(1)

    policy_keys, policy_values = k[:, :, :policy], v[:, :, :policy]
    first = attend(q[:, :, :policy] @ policy_keys.transpose(-1, -2) + causal(policy), policy_values)
    own_q, own_k, own_v = (t[:, :, policy:].reshape(batch, heads, scenes, span, dim) for t in (q, k, v))
    to_policy = q[:, :, policy:] @ policy_keys.transpose(-1, -2) - 1e4 * hidden_keys[:, None, None].to(
        q.dtype
    )
    to_own = own_q @ own_k.transpose(-1, -2) + causal(span)
    scores = torch.cat((to_policy.view(batch, heads, scenes, span, policy), to_own), -1)
    share = scores.softmax(-1).to(v.dtype)
    from_policy = share[..., :policy].reshape(batch, heads, scenes * span, policy) @ policy_values
    from_own = (share[..., policy:] @ own_v).reshape(batch, heads, scenes * span, dim)
    seen = torch.cat((first, from_policy + from_own), 2)
    x = x + F.linear(seen.transpose(1, 2).reshape(batch, length, heads * dim), wo)
    h = rms_norm(x, n2, 1e-6)
    return x + F.linear(F.silu(F.linear(h, gate)) * F.linear(h, up), down)


@dataclass(frozen=True)
class Hidden:
    """Normed hidden states [B, P + K*S, D] half-way up, before the last layer, and at the end."""

    middle: Tensor
    late: Tensor
    last: Tensor


class Forward:
    """Functional passes over ``model`` (a ``Qwen3VLForConditionalGeneration``)."""

    def __init__(self, model: Any, *, compile: bool = True) -> None:  # noqa: A002 - torch's own word
        from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen

        self.model = model
        self.visual = model.model.visual
        self.language = model.model.language_model
        self.words = self.language.embed_tokens.weight
        grid = torch.tensor([[1, SIDE // PATCH, SIDE // PATCH]])
        self.place, self.place_weight = qwen.get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=self.visual.num_grid_per_side,
            mode=self.visual.interpolation_mode,
            align_corners=self.visual.interpolation_align_corners,
            spatial_merge_size=MERGE,
            kwargs={},
        )
        cos, sin = self.visual.rotary_pos_emb(
            torch.zeros(1), qwen.get_vision_position_ids(grid, MERGE, kwargs={})
        )
        self.vision_rope = (cos[None, None], sin[None, None])
        self.inverse_frequencies = self.language.rotary_emb.inv_freq
        self._vision_block = torch.compile(vision_block, dynamic=False) if compile else vision_block
        self._text_layer = torch.compile(text_layer, dynamic=False) if compile else text_layer

    def tower(self, pixels: Tensor) -> Tensor:
        """[B, 144, 192] patches (Qwen's order) -> [B, 36, hidden] image tokens."""
        proj = self.visual.patch_embed.proj
        # a still picture fills both temporal slices with the same pixels
        x = F.linear(pixels, proj.weight.sum(2).flatten(1), proj.bias)
        x = x + (self.visual.pos_embed(self.place) * self.place_weight[:, :, None]).sum(1)
        for block in self.visual.blocks:
            a, m = block.attn, block.mlp
            weights = (
                block.norm1.weight, block.norm1.bias, a.qkv.weight, a.qkv.bias, a.proj.weight, a.proj.bias,
                block.norm2.weight, block.norm2.bias, m.linear_fc1.weight, m.linear_fc1.bias,
                m.linear_fc2.weight, m.linear_fc2.bias,
            )  # fmt: skip
            x = self._vision_block(x, self.vision_rope, weights)
        return self.visual.merger(x.reshape(-1, x.shape[-1])).view(x.shape[0], TOKENS, -1)

    def rope(self, positions: Tensor) -> Rope:
        """positions [3, B, L] (time, row, column) -> cos, sin [B, 1, L, head_dim], interleaved."""
        time, row, column = (positions[i][..., None] * self.inverse_frequencies for i in range(3))
        mixed = time.clone()
        end = 3 * self.model.config.text_config.rope_parameters["mrope_section"][1]
        mixed[..., 1:end:3] = row[..., 1:end:3]
        mixed[..., 2:end:3] = column[..., 2:end:3]
        angle = torch.cat((mixed, mixed), -1)[:, None]
        return angle.cos(), angle.sin()

    def text(self, x: Tensor, rope: Rope, hidden_keys: Tensor, scenes: int) -> Hidden:
        """x [B, P + K*S, D] word and image vectors -> hidden states; see ``text_layer``."""
        layers = self.language.layers
        stages = []
        if torch.is_grad_enabled() and not x.requires_grad:
            x = x.requires_grad_()  # or the first layer would be compiled twice
        for i, layer in enumerate(layers):
            if i in (len(layers) // 2, len(layers) - 1):
                stages.append(x)
            a, m = layer.self_attn, layer.mlp
            weights = (
                layer.input_layernorm.weight, a.q_proj.weight, a.k_proj.weight, a.v_proj.weight,
                a.q_norm.weight, a.k_norm.weight, a.o_proj.weight,
                layer.post_attention_layernorm.weight, m.gate_proj.weight, m.up_proj.weight,
                m.down_proj.weight,
            )  # fmt: skip
            x = self._text_layer(x, rope, hidden_keys, scenes, weights)
        norm = self.language.norm.weight
        middle, late, last = (rms_norm(t, norm, 1e-6) for t in (*stages, x))
        return Hidden(middle, late, last)


def patches(images: Any) -> Tensor:
    """uint8 [B, 96, 96, 3] -> float32 [B, 144, 192] in [-1, 1]: what Qwen2VLImageProcessor makes of them.

    The 2x2 patches of one image token stand together; a row is channel, y, x (one temporal slice).
    """
    x = torch.from_numpy(images).float() / 127.5 - 1
    x = x.view(-1, GRID, MERGE, PATCH, GRID, MERGE, PATCH, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    return x.reshape(len(images), TOKENS * MERGE**2, 3 * PATCH**2)
