"""PyTorch's multi-head attention as layers that are called, so that each can have an adapter."""

from torch import Tensor, nn
from torch.nn import functional as F


class JoinedAttention(nn.Module):
    """Compute the self-attention of an `nn.MultiheadAttention`, bit for bit, by calling its layers.

    nn.MultiheadAttention reads the weights of its layers and never calls them, so an adapter on them would have no effect.
    Here queries, keys and values come from one layer, `in_proj`. It and `out_proj` share their weights with the original.

    Args:
        attention: has queries, keys and values of one width, batches first, no dropout and no bias of its own for keys.

    Raises:
        ValueError: another kind of attention.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        one_width = attention.in_proj_weight is not None and attention.in_proj_bias is not None
        if not one_width or not attention.batch_first or attention.dropout or attention.bias_k is not None:
            raise ValueError("adapters need attention of one width, with batches first and without dropout")
        self.heads = attention.num_heads
        self.in_proj = nn.Linear(attention.embed_dim, 3 * attention.embed_dim, device="meta")
        self.in_proj.weight, self.in_proj.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Return (B, L, D) and None, for queries, keys and values that are the same tensor (B, L, D).

        Args:
            attn_mask: (L, L), added to the scores.
        """
        assert key is query
        assert value is query
        assert not need_weights
        # In PyTorch's order and memory layout, which decide how the last bits are rounded.
        projected = self.in_proj(query.transpose(0, 1)).unflatten(-1, (3, -1)).movedim(-2, 0).contiguous()
        q, k, v = (part.unflatten(-1, (self.heads, -1)).permute(1, 2, 0, 3) for part in projected)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(out.permute(2, 0, 1, 3).flatten(2)).transpose(0, 1), None


def join_attention(module: nn.Module) -> None:
    """Replace every `nn.MultiheadAttention` in a module by a `JoinedAttention`, in place."""
    for child in list(module.modules()):
        for name, layer in list(child.named_children()):
            if isinstance(layer, nn.MultiheadAttention):
                setattr(child, name, JoinedAttention(layer))
