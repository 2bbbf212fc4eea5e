# mypy: allow-untyped-defs, allow-untyped-calls
"""Recurrent cells: the gates of all steps in one product, then one scan backwards through time.

The hidden states are known from the output, so the gates need no scan. Shapes: x [t, n, i], y [t, d, n, h],
w [d, gates h, i], r [d, gates h, h], b [d, 2 gates h]. The directions d are separate; "before" and "after" follow the
direction's own time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import Tensor, op, ops
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, vjp
from caveat_worker.engine.autodiff.shapes import zeros_like

_DERIVATIVES = {  # of activations, from their value
    "Relu": lambda y: op.Cast(y > 0, to=int(y.dtype)),
    "Sigmoid": lambda y: y * (1 - y),
    "Tanh": lambda y: 1 - y * y,
}


@dataclass(frozen=True)
class Direction:
    """The weights and the states of one direction of a cell."""

    w: Tensor  # [gates h, i]
    r: Tensor  # [gates h, h]
    wb: Tensor | float  # [gates h]
    rb: Tensor | float
    h: Tensor  # [t, n, h]: the state before each step
    start: Tensor  # [n, h]: the state before the first step
    backwards: bool


@vjp("RNN", several=2)
def rnn(g, y, x, w, r, b=None, lengths=None, h0=None, *, hidden_size, direction, clip=None, layout=0,
        activations, activation_alpha=None, activation_beta=None):  # fmt: skip
    """h' = f(W x + R h + b): dz = f'(h') dh', dh = Rᵀ dz, dx = Wᵀ dz."""
    ways = _directions(y[0], w, r, b, h0, lengths, direction, layout, clip)
    names = activations[: len(ways)]
    if not set(names) <= set(_DERIVATIVES):
        raise UnsupportedOperator(f"its activations are {', '.join(names)}")
    results = []
    for d, (way, name) in enumerate(zip(ways, names, strict=True)):

        def step(dh, dy, derivative, way=way):
            dz = (dh + dy) * derivative
            return [dz @ way.r], [dz]

        last = _cotangent(g[1], d, way.start)
        derivative = _DERIVATIVES[name](_one(y[0], d, 1))
        results.append(_scan(step, [last], [_cotangent(g[0], d, way.h, 1), derivative], not way.backwards))
    return _collected(results, ways, w, r, b, h0)


@vjp("LSTM", several=3)
def lstm(g, y, x, w, r, b=None, lengths=None, h0=None, c0=None, p=None, *, hidden_size, direction, clip=None,
         layout=0, input_forget=0, activations=None, activation_alpha=None, activation_beta=None):  # fmt: skip
    """c' = f c + i u and h' = o tanh c', with gates i, o, f and the update u in that order."""
    ways = _directions(y[0], w, r, b, h0, lengths, direction, layout, clip)
    _only_standard(activations, ["Sigmoid", "Tanh", "Tanh"], input_forget=input_forget, peepholes=p)
    results = []
    for d, way in enumerate(ways):
        z = _weighted(x, way.w, way.wb) + _weighted(way.h, way.r, way.rb)
        i, o, f, u = (gate(part) for gate, part in zip([op.Sigmoid] * 3 + [op.Tanh], _parts(z, 4), strict=True))
        first = zeros_like(way.start) if c0 is None else _one(c0, d)
        (_,), (after,) = _scan(lambda c, i, f, u: _twice(f * c + i * u), [first], [i, f, u], way.backwards)
        before = _shifted(after, first, way.backwards)
        t = op.Tanh(after)

        def step(dh, dc, dy, i, o, f, u, c, t, way=way):
            dh = dh + dy
            dc = dc + dh * o * (1 - t * t)
            dz = op.Concat(
                dc * u * i * (1 - i), dh * t * o * (1 - o), dc * c * f * (1 - f), dc * i * (1 - u * u), axis=1
            )
            return [dz @ way.r, dc * f], [dz]

        last = [_cotangent(g[1], d, way.start), _cotangent(g[2], d, way.start)]
        sequences = [_cotangent(g[0], d, way.h, 1), i, o, f, u, before, t]
        results.append(_scan(step, last, sequences, not way.backwards))
    return (*_collected(results, ways, w, r, b, h0), c0 and _stacked([states[1] for states, _ in results]))


@vjp("DynamicQuantizeLSTM", domain="com.microsoft", several=3)
def quantised_lstm(g, y, x, w, r, b=None, lengths=None, h0=None, c0=None, p=None, *of_integers, **attributes):
    """Straight through the rounding of x and of the states, which are those of the rounded cell."""
    w, r = quantised_weights(w, r, *of_integers)
    return lstm(g, y, x, w, r, b, lengths, h0, c0, p, **{"direction": "forward"} | attributes)


def quantised_weights(w, r, w_scale, w_zero, r_scale, r_zero):
    """The weights of a cell [d, gates h, i] and [d, gates h, h] as numbers, of integers with the last axes exchanged.

    A scale and a zero point are of a direction [d], or of each row of its weights [d, gates h].
    """
    found = []
    for q, scale, zero in ((w, w_scale, w_zero), (r, r_scale, r_zero)):
        levels = q.array.astype(np.float32) - zero.array.astype(np.float32).reshape(len(q.array), 1, -1)
        number = levels * scale.array.reshape(len(q.array), 1, -1)
        found.append(q.builder.constant(np.ascontiguousarray(number.transpose(0, 2, 1))))
    return found


@vjp("GRU", several=2)
def gru(g, y, x, w, r, b=None, lengths=None, h0=None, *, hidden_size, direction, clip=None, layout=0,
        linear_before_reset, activations=None, activation_alpha=None, activation_beta=None):  # fmt: skip
    """h' = (1 - z) u + z h, with gates z and s (reset) and the update u, which reads s h or s (R h + b)."""
    ways = _directions(y[0], w, r, b, h0, lengths, direction, layout, clip)
    _only_standard(activations, ["Sigmoid", "Tanh"])
    results = []
    for d, way in enumerate(ways):
        xz, xs, xu = _parts(_weighted(x, way.w, way.wb), 3)
        hz, hs, hu = _parts(_weighted(way.h, way.r, way.rb), 3)
        z, s = op.Sigmoid(xz + hz), op.Sigmoid(xs + hs)
        rz, rs, ru = _parts(way.r, 3, 0)
        bias = way.rb if b is None else _parts(way.rb, 3, 0)[2]
        u = op.Tanh(xu + (s * hu if linear_before_reset else _weighted(s * way.h, ru, bias)))

        def step(dh, dy, z, s, u, h, hu, rz=rz, rs=rs, ru=ru):
            dh = dh + dy
            dz, du = dh * (h - u) * z * (1 - z), dh * (1 - z) * (1 - u * u)
            through = (du * s) @ ru if linear_before_reset else (du @ ru) * s
            ds = (du * hu if linear_before_reset else (du @ ru) * h) * s * (1 - s)
            return [dh * z + dz @ rz + ds @ rs + through], [op.Concat(dz, ds, du, axis=1)]

        sequences = [_cotangent(g[0], d, way.h, 1), z, s, u, way.h, hu]
        results.append(_scan(step, [_cotangent(g[1], d, way.start)], sequences, not way.backwards))
    return _collected(results, ways, w, r, b, h0)


def _directions(y, w, r, b, h0, lengths, direction, layout, clip):
    """The cell's directions; raises `UnsupportedOperator` for uses that have no rule."""
    if lengths is not None or layout or clip is not None:
        raise UnsupportedOperator("it has sequence lengths, a batch-first layout or clipping")
    if any(t is not None and t.active for t in (w, r, b)):
        raise UnsupportedOperator("its weights are computed")
    ways = []
    for d in range(2 if direction == "bidirectional" else 1):
        backwards = direction == "reverse" or d == 1
        states = _one(y, d, 1)
        first = op.Squeeze(op.Slice(states, [0], [1], [0]), [0])
        start = zeros_like(first) if h0 is None else _one(h0, d)
        wb, rb = (0.0, 0.0) if b is None else _parts(_one(b, d), 2, 0)
        ways.append(Direction(_one(w, d), _one(r, d), wb, rb, _shifted(states, start, backwards), start, backwards))
    return ways


def _shifted(states, start, backwards):
    """The states before each step, from the states after each step."""
    if backwards:
        return op.Concat(op.Slice(states, [1], [2**31], [0]), op.Unsqueeze(start, [0]), axis=0)
    return op.Concat(op.Unsqueeze(start, [0]), op.Slice(states, [0], [-1], [0]), axis=0)


def _twice(state):
    return [state], [op.Identity(state)]


def _only_standard(activations, standard, **others):
    if activations and list(activations) != standard * (len(activations) // len(standard)):
        raise UnsupportedOperator(f"its activations are {', '.join(activations)}")
    for name, value in others.items():
        if value:
            raise UnsupportedOperator(f"it has {name.replace('_', ' ')}")


def _weighted(x, w, b):
    return op.MatMul(x, op.Transpose(w, perm=[1, 0])) + b


def _parts(t, n, axis=2):
    return ops.Split(t, axis=axis, num_outputs=n, outputs=n)


def _one(t, d, axis=0):
    """Direction d of a tensor, without the axis of directions."""
    return op.Squeeze(op.Slice(t, [d], [d + 1], [axis]), [axis])


def _cotangent(g, d, like, axis=0):
    return zeros_like(like) if g is None else _one(g, d, axis)


def _stacked(parts):
    return op.Concat(*(op.Unsqueeze(p, [0]) for p in parts), axis=0)


def _collected(results, ways, w, r, b, h0):
    """The cotangents of x, w, r, b, the lengths and the initial state."""
    dx = op.Sum(*(dz @ way.w for (_, (dz,)), way in zip(results, ways, strict=True)))
    return dx, None, None, None, None, h0 and _stacked([states[0] for states, _ in results])


def _scan(step, states, sequences, backwards):
    """Scans `step(*states, *slices) -> (states, outputs)` over the first axis; final states and stacked outputs."""
    builder = states[0].builder
    body = builder.body()
    entries = [
        ir.Value(name=builder.fresh("step"), type=ir.TensorType(t.dtype), shape=ir.Shape([None, None]))
        for t in (*states, *sequences)
    ]
    after, outputs = step(*(Tensor(body, v) for v in entries))
    graph = ir.Graph(entries, [body.owned(t) for t in (*after, *outputs)], nodes=body.nodes, name=builder.fresh("body"))
    results = ops.Scan(
        *states, *sequences, outputs=len(after) + len(outputs), body=graph, num_scan_inputs=len(sequences),
        scan_input_directions=[int(backwards)] * len(sequences), scan_output_directions=[int(backwards)] * len(outputs),
    )  # fmt: skip
    return results[: len(after)], results[len(after) :]
