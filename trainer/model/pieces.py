"""Attention over packed tokens, piece by piece: nothing is padded, copied or masked.

A segment's queries see their own segment causally and all of what stands before them; each part is one call
of PyTorch's flash kernel for CPUs, and the parts of one softmax are put together by their log-sum-exps (as
ring attention does, arXiv 2310.01889). `scaled_dot_product_attention` under a mask is the oracle
(tests/trainer/model/test_lean.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Range = tuple[int, int]


@dataclass(frozen=True)
class Segment:
    """Tokens [start, stop) of a packed row: a prompt, a response, or both. before: the segment, earlier in
    the row, that all its tokens see as well; that one has none before itself. wanted: the first token whose
    last state is asked for; those behind it are too."""

    start: int
    stop: int
    before: Segment | None = None
    wanted: int = 0


@dataclass(frozen=True)
class Pieces:
    """(queries, keys) of each call. own: as many keys as queries, seen causally. before: all of the keys are
    seen."""

    own: list[tuple[Range, Range]]
    before: list[tuple[Range, Range]]

    @classmethod
    def of(cls, segments: Sequence[Segment], wanted: bool = False) -> Pieces:
        """wanted: only the queries that are asked for, which then stand behind each other."""
        own: list[tuple[Range, Range]] = []
        before: list[tuple[Range, Range]] = []
        at = segments[0].start
        for each in segments:
            first = max(each.start, each.wanted) if wanted else each.start
            if first >= each.stop:
                continue
            queries = at, at + each.stop - first
            at = queries[1]
            own.append((queries, (first, each.stop)))
            if first > each.start:
                before.append((queries, (each.start, first)))
            if each.before is not None:
                keys = each.before.start, each.before.stop
                if before and before[-1] == ((before[-1][0][0], queries[0]), keys):
                    queries = before.pop()[0][0], queries[1]  # behind the same prompt, in one call
                before.append((queries, keys))
        return cls(own, before)


def attend(q: Tensor, k: Tensor, v: Tensor, pieces: Pieces) -> tuple[Tensor, Tensor]:
    """(outputs [Q, heads, head dim], log-sum-exps [heads, Q]) of q [Q, heads, head dim] over k, v [K, heads,
    head dim]."""
    out, lse = torch.empty_like(q), q.new_empty(q.shape[1], len(q))
    for (a, b), (c, d) in pieces.own:
        one, its = _flash(q[a:b], k[c:d], v[c:d], True)
        out[a:b], lse[:, a:b] = one, its
    for (a, b), (c, d) in pieces.before:
        one, its = _flash(q[a:b], k[c:d], v[c:d], False)
        known = lse[:, a:b]
        whole = torch.logaddexp(known, its)
        out[a:b].mul_((known - whole).exp_().t()[..., None])
        out[a:b].addcmul_(one, its.sub_(whole).exp_().t()[..., None])
        lse[:, a:b] = whole
    return out, lse


def attend_backward(
    slope: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, pieces: Pieces
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by q, k and v where `slope` is that by the outputs."""
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for number, ((a, b), (c, d)) in enumerate((*pieces.own, *pieces.before)):
        causal = number < len(pieces.own)
        given = [_heads_first(x) for x in (slope[a:b], q[a:b], k[c:d], v[c:d], out[a:b])]
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *given, lse[None, :, a:b].contiguous(), 0.0, causal
        )
        by_q, by_k, by_v = (each[0].transpose(0, 1) for each in found)
        if causal:
            dq[a:b] = by_q
        else:
            dq[a:b] += by_q
        dk[c:d] += by_k
        dv[c:d] += by_v
    return dq, dk, dv


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        _heads_first(q), _heads_first(k), _heads_first(v), 0.0, causal
    )
    return out[0].transpose(0, 1), lse[0]


def _heads_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1)[None]
