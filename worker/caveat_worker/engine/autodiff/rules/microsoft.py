# mypy: allow-untyped-defs, allow-untyped-calls
# ruff: noqa: D103
"""com.microsoft: operators that ONNX Runtime's optimiser fuses, as formulas in standard operators."""

from __future__ import annotations

from math import sqrt

import numpy as np

from caveat_worker.engine.autodiff.builder import op, ops
from caveat_worker.engine.autodiff.rules.qlinear import numbers
from caveat_worker.engine.autodiff.rules.quantised import matmul_integer_to_float
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, lowered
from caveat_worker.engine.autodiff.shapes import size_of, swap_last

MS = "com.microsoft"


@lowered("Gelu", domain=MS)
def gelu(x):
    return _gelu(x)


@lowered("BiasGelu", domain=MS)
def bias_gelu(x, bias):
    return _gelu(x + bias)


@lowered("FastGelu", domain=MS)
def fast_gelu(x, bias=None):
    x = x if bias is None else x + bias
    return 0.5 * x * (1 + op.Tanh(sqrt(2 / np.pi) * (x + 0.044715 * x * x * x)))


@lowered("QuickGelu", domain=MS)
def quick_gelu(x, *, alpha=1.702):
    return x * op.Sigmoid(alpha * x)


@lowered("FusedConv", domain=MS)
def fused_conv(x, w, b=None, z=None, *, activation=None, activation_params=None, auto_pad=None, dilations=None,
               group=None, kernel_shape=None, pads=None, strides=None):  # fmt: skip
    y = op.Conv(x, w, b, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads,
                strides=strides)  # fmt: skip
    return _activated(y if z is None else y + z, activation, activation_params)


@lowered("FusedGemm", domain=MS)
def fused_gemm(a, b, c=None, *, alpha=1.0, beta=1.0, transA=0, transB=0, activation=None, activation_alpha=None,
               activation_beta=None, activation_gamma=None):  # fmt: skip
    y = op.Gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return _activated(
        y, activation, [v for v in (activation_alpha, activation_beta, activation_gamma) if v is not None]
    )


@lowered("FusedMatMul", domain=MS)
def fused_matmul(a, b, *, alpha=1.0, transA=0, transB=0, transBatchA=0, transBatchB=0):
    if transBatchA or transBatchB:
        raise UnsupportedOperator("it transposes its batch")
    y = (swap_last(a) if transA else a) @ (swap_last(b) if transB else b)
    return y if alpha == 1 else y * alpha


@lowered("SkipLayerNormalization", domain=MS)
def skip_layer_normalization(x, skip, gamma, beta=None, bias=None, *, epsilon=1e-12):
    total = x + skip if bias is None else x + skip + bias
    return op.LayerNormalization(total, gamma, beta, epsilon=epsilon, axis=-1), None, None, total


@lowered("SkipSimplifiedLayerNormalization", domain=MS)
def skip_simplified_layer_normalization(x, skip, gamma, bias=None, *, epsilon=1e-5):
    total = x + skip if bias is None else x + skip + bias
    return _root_mean_square(total, gamma, epsilon), None, None, total


@lowered("SimplifiedLayerNormalization")
def simplified_layer_normalization(x, scale, *, axis=-1, epsilon=1e-5, stash_type=1):
    if axis not in (-1, x.rank - 1):
        raise UnsupportedOperator("it normalises over more than the last axis")
    return _root_mean_square(x, scale, epsilon)


@lowered("EmbedLayerNormalization", domain=MS)
def embed_layer_normalization(ids, segments, words, places, segment_vectors, gamma, beta, mask=None, positions=None, *,
                              epsilon=1e-12, mask_index_type=0):  # fmt: skip
    """The normalised sum of the embeddings of words, places and segments (Devlin et al. 2019), and texts' lengths."""
    place = op.Slice(places, [0], size_of(ids, 1), [0]) if positions is None else op.Gather(places, positions)
    total = op.Gather(words, ids) + place
    if segments is not None:
        total = total + op.Gather(segment_vectors, segments)
    return op.LayerNormalization(total, gamma, beta, epsilon=epsilon, axis=-1), _lengths(ids, mask), total


@lowered("QEmbedLayerNormalization", domain=MS)
def quantised_embed_layer_normalization(ids, segments, words, places, segment_vectors, gamma, beta, mask, *of_integers,
                                        epsilon=1e-12):  # fmt: skip
    """The same over integers, whose scales and then zero points follow the mask."""
    word, place, segment, slope, shift = zip(of_integers[:5], of_integers[5:], strict=True)
    total = numbers(op.Gather(words, ids), *word) + numbers(op.Slice(places, [0], size_of(ids, 1), [0]), *place)
    if segments is not None:
        total = total + numbers(op.Gather(segment_vectors, segments), *segment)
    gamma, beta = numbers(gamma, *slope), numbers(beta, *shift)
    return op.LayerNormalization(total, gamma, beta, epsilon=epsilon, axis=-1), _lengths(ids, mask)


def _lengths(ids, mask):
    """How many words of each text a mask shows [batch]; none without one, as the kernel has it."""
    shown = ids * 0 if mask is None else op.Cast(op.Equal(mask, np.int32(1)), to=int(ids.dtype))
    return op.ReduceSum(shown, [1], keepdims=0)


@lowered("Attention", domain=MS)
def attention(x, weights, bias=None, mask=None, past=None, attention_bias=None, past_length=None, *, num_heads,
              scale=None, unidirectional=0, qkv_hidden_sizes=None, mask_filter_value=-10000.0, do_rotary=0,
              past_present_share_buffer=0, rotary_embedding_dim=0):  # fmt: skip
    """Q, K and V come from one product."""
    if past is not None or do_rotary:
        raise UnsupportedOperator("it has a past or rotates its queries and keys")
    qkv = x @ weights if bias is None else x @ weights + bias
    widths = list(qkv_hidden_sizes or [weights.shape[1] // 3] * 3)
    hidden = _hidden(x, mask, mask_filter_value), attention_bias, _unseen(x, unidirectional)
    return _attended(ops.Split(qkv, widths, axis=-1, outputs=3), widths, num_heads, scale, hidden)


@lowered("QAttention", domain=MS)
def quantised_attention(x, weights, bias, x_scale, scales, mask=None, x_zero=None, zeros=None, past=None, *, num_heads,
                        scale=None, unidirectional=0, mask_filter_value=-10000.0, do_rotary=0,
                        past_present_share_buffer=0):  # fmt: skip
    """The same of x that was rounded by its range."""
    if past is not None or do_rotary:
        raise UnsupportedOperator("it has a past or rotates its queries and keys")
    qkv = matmul_integer_to_float(x, weights, x_scale, scales, x_zero, zeros, bias)
    widths = [weights.shape[1] // 3] * 3
    hidden = _hidden(x, mask, mask_filter_value, int(qkv.dtype)), None, _unseen(x, unidirectional)
    return _attended(ops.Split(qkv, widths, axis=-1, outputs=3), widths, num_heads, scale, hidden)


@lowered("MultiHeadAttention", domain=MS)
def multi_head_attention(q, k=None, v=None, bias=None, mask=None, attention_bias=None, past_k=None, past_v=None,
                         past_length=None, cache=None, *, num_heads, scale=None, unidirectional=0,
                         mask_filter_value=-10000.0):  # fmt: skip
    """Q, K and V come each by itself, and one bias for all three."""
    if k is None or v is None or past_k is not None or {q.rank, k.rank, v.rank} != {3}:
        raise UnsupportedOperator("its queries, keys and values are packed, or it has a past")
    parts = [q, k, v]
    widths = [part.shape[2] for part in parts]
    if bias is not None:
        parts = [part + own for part, own in zip(parts, ops.Split(bias, widths, axis=0, outputs=3), strict=True)]
    hidden = _hidden(k, mask, mask_filter_value), attention_bias, _unseen(q, unidirectional)
    return _attended(parts, widths, num_heads, scale, hidden)


@lowered("GroupQueryAttention", domain=MS)
def group_query_attention(q, k=None, v=None, past_k=None, past_v=None, lengths=None, total=None, cosines=None,
                          sines=None, places=None, bias=None, sink=None, *, num_heads, kv_num_heads, scale=None,
                          softcap=0.0, local_window_size=-1, do_rotary=0, rotary_interleaved=0,
                          smooth_softmax=0):  # fmt: skip
    """Several queries share each key, and none sees a later key (Ainslie et al. 2023), at the start of a text.

    What the runtime leaves in places behind a text's length is not defined there; here they are as any other.
    """
    _refuse_grouped(past_k, places, sink, smooth_softmax)
    tokens, width = size_of(q, 1), q.shape[2] // (num_heads + (2 * kv_num_heads if k is None else 0))
    unseen = _unseen(q, 1, local_window_size)
    if k is None:
        q, k, v = ops.Split(q, [width * n for n in (num_heads, kv_num_heads, kv_num_heads)], axis=-1, outputs=3)
    queries, keys, values = _heads(q, num_heads, width), _heads(k, kv_num_heads, width), _heads(v, kv_num_heads, width)
    if do_rotary:
        start, pairs = np.zeros(1, np.int64), cosines.shape[1]
        turns = [op.Unsqueeze(op.Slice(each, start, tokens, start), [0, 1]) for each in (cosines, sines)]
        queries, keys = (_rotated(each, width, turns, pairs, rotary_interleaved) for each in (queries, keys))
    shared = op.Reshape(queries, [0, kv_num_heads, num_heads // kv_num_heads, -1, width])
    logits = op.MatMul(shared, op.Unsqueeze(op.Transpose(keys, perm=[0, 1, 3, 2]), [2])) * (scale or 1 / sqrt(width))
    logits = op.Tanh(logits / softcap) * softcap if softcap else logits
    logits = op.Where(unseen, float(np.finfo(np.float32).min), logits)
    logits = logits if bias is None else logits + op.Unsqueeze(bias, [2])
    mixed = op.MatMul(op.Softmax(logits, axis=-1), op.Unsqueeze(values, [2]))
    whole = op.Transpose(op.Reshape(mixed, [0, num_heads, -1, width]), perm=[0, 2, 1, 3])
    return op.Reshape(whole, [0, 0, num_heads * width]), keys, values


def _refuse_grouped(past, places, sink, smooth):
    """Raises UnsupportedOperator for forms of grouped queries that are not those of a text's start."""
    if past is not None and past.shape[2] != 0:
        raise UnsupportedOperator("it has a past")
    if places is not None:
        raise UnsupportedOperator("its places are given: the runtime takes those of the first text for all")
    if sink is not None or smooth == 1:
        raise UnsupportedOperator("its softmax has a part that no key has")


@lowered("RotaryEmbedding", domain=MS)
def rotary_embedding(x, places, cosines, sines, *, interleaved=0, num_heads=0, rotary_embedding_dim=0,
                     is_packed_batching=0, scale=1.0):  # fmt: skip
    """Pairs of features turned by an angle that grows with their place (Su et al. 2021)."""
    if places.rank != 2 or is_packed_batching or scale != 1:
        raise UnsupportedOperator("its places are an offset, or it is scaled")
    turns, pairs = [op.Unsqueeze(op.Gather(each, places, axis=0), [1]) for each in (cosines, sines)], cosines.shape[1]
    if x.rank == 4:
        return _rotated(x, x.shape[3], turns, pairs, interleaved)
    width = x.shape[2] // num_heads if rotary_embedding_dim else 2 * pairs
    turned = op.Transpose(_rotated(_heads(x, -1, width), width, turns, pairs, interleaved), perm=[0, 2, 1, 3])
    return op.Reshape(turned, [0, 0, x.shape[2]])


def _rotated(x, width, turns, pairs, interleaved):
    """Each pair of the first features of x [batch, heads, tokens, width] turned; the others as they are."""
    parts = ops.Split(x, [2 * pairs, width - 2 * pairs], axis=-1, outputs=2) if 2 * pairs < width else (x,)
    if interleaved:
        split = op.Reshape(parts[0], [0, 0, 0, pairs, 2])
        left, right = (op.Gather(split, np.int64(number), axis=4) for number in range(2))
    else:
        left, right = ops.Split(parts[0], [pairs, pairs], axis=-1, outputs=2)
    cosines, sines = turns
    turned = left * cosines - right * sines, right * cosines + left * sines
    if interleaved:
        both = op.Concat(*(op.Unsqueeze(each, [4]) for each in turned), axis=4)
        return op.Concat(op.Reshape(both, [0, 0, 0, 2 * pairs]), *parts[1:], axis=-1)
    return op.Concat(*turned, *parts[1:], axis=-1)


def _attended(parts, widths, num_heads, scale, hidden):
    """softmax(Q Kᵀ / √d) V for each head (Vaswani et al. 2017, eq. 1).

    `hidden`: what is added to the logits for the keys of a mask, a bias of them, and where a key is unseen.
    """
    q, k, v = (_heads(part, num_heads, width // num_heads) for part, width in zip(parts, widths, strict=True))
    logits = op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2])) * (scale or 1 / sqrt(widths[0] // num_heads))
    keys, bias, unseen = hidden
    logits = logits if keys is None else logits + keys
    logits = logits if unseen is None else op.Where(unseen, float(np.finfo(np.float32).min), logits)
    logits = logits if bias is None else logits + bias
    mixed = op.Transpose(op.MatMul(op.Softmax(logits, axis=-1), v), perm=[0, 2, 1, 3])
    return op.Reshape(mixed, [0, 0, widths[2]])


def _heads(x, heads, width):
    """Features [batch, tokens, heads * width] as [batch, heads, tokens, width]."""
    return op.Transpose(op.Reshape(x, [0, 0, heads, width]), perm=[0, 2, 1, 3])


def _unseen(x, unidirectional, window=-1):
    """Where a key comes after a query, or as far before it as a window [queries, keys]; None where all are seen."""
    if not unidirectional:
        return None
    place = op.Range(np.int64(0), op.Squeeze(size_of(x, 1), [0]), np.int64(1))
    keys, queries = op.Unsqueeze(place, [0]), op.Unsqueeze(place, [1])
    later = keys > queries
    return later if window < 0 else op.Or(later, queries - keys >= np.int64(window))


def _hidden(x, mask, filter_value, dtype=None):
    """What is added to the logits of keys that a mask hides, in the type of x or another; None without a mask."""
    return None if mask is None else _hidden_keys(mask, x, dtype or int(x.dtype)) * filter_value


def _hidden_keys(mask, x, dtype):
    """1 for the keys that a mask hides, else 0, broadcasting against [batch, heads, queries, keys]."""
    if mask.rank == 1:
        known = {size for size in (mask.shape[0], x.shape[0]) if isinstance(size, int)}
        if len(known) == 2:
            raise UnsupportedOperator("its mask holds more than the lengths of the sequences")
        place = op.Range(np.int32(0), op.Cast(op.Squeeze(size_of(x, 1), [0]), to=int(mask.dtype)), np.int32(1))
        return op.Unsqueeze(op.Cast(op.Unsqueeze(mask, [1]) <= place, to=dtype), [1, 2])
    if mask.rank > 3:
        raise UnsupportedOperator(f"its mask has {mask.rank} axes")
    return op.Unsqueeze(1 - op.Cast(mask, to=dtype), [1, 2] if mask.rank == 2 else [1])


def _gelu(x):
    return 0.5 * x * (1 + op.Erf(x * sqrt(0.5)))


def _root_mean_square(x, scale, epsilon):
    return x / op.Sqrt(op.ReduceMean(x * x, [-1]) + epsilon) * scale


def _activated(y, activation, params):
    match activation:
        case None | "":
            return y
        case "Relu" | "Tanh" | "Sigmoid":
            return getattr(op, activation)(y)
        case "LeakyRelu":
            return op.LeakyRelu(y, alpha=params[0])
        case "Clip":
            return op.Clip(y, params[0], params[1])
        case "HardSigmoid":
            return op.HardSigmoid(y, alpha=params[0], beta=params[1])
    raise UnsupportedOperator(f"its activation is {activation}")
