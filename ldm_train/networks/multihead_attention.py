"""PyTorch's multi-head attention as layers that are called, so that an adapter can stand beside each."""

from torch import Tensor, nn
from torch.nn import functional as F


class JoinedAttention(nn.Module):
    """The self-attention of an `nn.MultiheadAttention`, bit for bit, which reads its layers' weights and calls none of them.

    Its queries, keys and values come from one layer, `in_proj`, whose weight it shares, as it does that of `out_proj`.

    Args:
        attention: with queries, keys and values of one width, without dropout.

    Raises:
        ValueError: another kind of attention.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        whole = attention.in_proj_weight is not None and attention.in_proj_bias is not None
        if not whole or not attention.batch_first or attention.dropout or attention.bias_k is not None:
            raise ValueError("only attention with one width, batches first and no dropout can have adapters")
        self.heads = attention.num_heads
        self.in_proj = nn.Linear(attention.embed_dim, 3 * attention.embed_dim, device="meta")
        self.in_proj.weight, self.in_proj.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Queries, keys and values are one and the same, (B, L, D); the mask (L, L) is added to the scores."""
        assert key is query
        assert value is query
        assert not need_weights
        # In PyTorch's own order, and lying in memory as there, which decides how the last bits are rounded.
        joined = self.in_proj(query.transpose(0, 1)).unflatten(-1, (3, -1)).movedim(-2, 0).contiguous()
        q, k, v = (part.unflatten(-1, (self.heads, -1)).permute(1, 2, 0, 3) for part in joined)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(out.permute(2, 0, 1, 3).flatten(2)).transpose(0, 1), None


def join_attention(module: nn.Module) -> None:
    """Put a `JoinedAttention` in the place of every attention of PyTorch's in a module."""
    for child in list(module.modules()):
        for name, layer in list(child.named_children()):
            if isinstance(layer, nn.MultiheadAttention):
                setattr(child, name, JoinedAttention(layer))
