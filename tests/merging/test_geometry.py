"""Rows, grids and logical matrices against plain slicing."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_demix.checkpoints.architecture import Architecture
from nemo_demix.checkpoints.metadata import Chunk
from nemo_demix.errors import CheckpointError
from nemo_demix.merging import geometry
from nemo_demix.merging.geometry import Grid, as_rows, matrices, spans

LAYER = "module.decoder.layers."


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Chunk]]:
    """A shape, and a regular cut of every axis."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    cuts = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=2))}) for size in shape]
    chunks = [
        Chunk(tuple(a for a, _ in box), tuple(b - a for a, b in box), "", 0, 0)
        for box in itertools.product(*(itertools.pairwise(cut) for cut in cuts))
    ]
    return shape, draw(st.permutations(chunks))


@given(grids(), st.data())
def test_blocks_of_rows_gather_from_any_grid_what_slicing_gives(grid, data: st.DataObject) -> None:
    shape, chunks = grid
    width = data.draw(st.sampled_from([size for size in range(1, shape[-1] + 1) if shape[-1] % size == 0]))
    whole = torch.arange(int(np.prod(shape))).reshape(shape)
    payloads = [
        whole[tuple(slice(o, o + s) for o, s in zip(c.offsets, c.sizes, strict=True))].flatten() for c in chunks
    ]
    flat = whole.reshape(-1, width)
    found, positions = torch.full(flat.shape, -1), [0] * len(chunks)
    old, geometry.BLOCK_ELEMENTS = geometry.BLOCK_ELEMENTS, data.draw(st.integers(1, 20))
    try:
        blocks = list(spans(0, len(flat), width, whole_rows=data.draw(st.booleans())))
    finally:
        geometry.BLOCK_ELEMENTS = old
    own = Grid(shape, chunks, width)
    for span in blocks:
        block = found[span.first_row : span.end_row, span.first_column : span.end_column]
        for piece in own.pieces(span):
            assert piece.start == positions[piece.chunk], "every payload is read in order, once"
            positions[piece.chunk] += piece.size
            target = block[piece.rows, piece.columns]
            target.copy_(payloads[piece.chunk][piece.start : piece.start + piece.size].view(target.shape))
    assert torch.equal(found, flat)
    assert positions == [len(payload) for payload in payloads]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
def test_q_k_and_v_are_the_rows_that_hugging_face_names(groups: int, queries: int, channels: int, layers: int) -> None:
    rows = (queries + 2) * groups * channels
    name = LAYER + "self_attention.linear_qkv.weight"
    architecture = Architecture(
        num_attention_heads=groups * queries, num_query_groups=groups, kv_channels=channels, gated_linear_unit=True
    )
    fused = np.arange(layers * rows).reshape(layers, groups, queries + 2, channels)
    expected = [
        part[layer].flatten().tolist()
        for layer in range(layers)
        for part in (fused[:, :, :-2], fused[:, :, -2:-1], fused[:, :, -1:])
    ]
    found = matrices(as_rows(name, (layers, rows, 8), architecture), architecture)
    assert [[row for run in m.runs for row in range(*run)] for m in found] == expected


def test_layers_experts_halves_and_vectors() -> None:
    gated = Architecture(gated_linear_unit=True)

    def runs(
        name: str, shape: tuple[int, ...], architecture: Architecture = gated
    ) -> list[tuple[tuple[int, int], ...]]:
        return [matrix.runs for matrix in matrices(as_rows(name, shape, architecture), architecture)]

    assert runs(LAYER + "mlp.linear_fc1.weight", (2, 6, 5)) == [((0, 3),), ((3, 6),), ((6, 9),), ((9, 12),)]
    assert runs("decoder.layers.3.mlp.linear_fc1.weight", (6, 5)) == [((0, 3),), ((3, 6),)]
    plain = Architecture(gated_linear_unit=False)
    assert runs(LAYER + "mlp.linear_fc1.weight", (2, 6, 5), plain) == [((0, 6),), ((6, 12),)]
    experts = LAYER + "mlp.experts.experts.linear_fc2.weight"
    assert runs(experts, (2, 3, 4, 5)) == [((4 * i, 4 * i + 4),) for i in range(6)]
    assert runs("decoder.layers.3.mlp.experts.experts.linear_fc2.weight", (3, 4, 5)) == [
        ((4 * i, 4 * i + 4),) for i in range(3)
    ]
    assert runs("decoder.layers.3.mlp.experts.experts.linear_fc1.bias", (3, 8)) == [((i, i + 1),) for i in range(6)]
    with pytest.raises(CheckpointError, match="holds 3 experts, but the checkpoint's configuration says 4"):
        runs(experts, (2, 3, 4, 5), Architecture(num_experts=4))
    assert runs(LAYER + "mlp.linear_fc1.layer_norm_weight", (3, 8)) == [((0, 1),), ((1, 2),), ((2, 3),)]
    assert runs("module.decoder.final_layernorm.weight", (8,)) == [((0, 1),)]
    assert runs("module.scale", ()) == [((0, 1),)]


def test_a_fused_tensor_that_cannot_be_split_is_refused() -> None:
    name = LAYER + "self_attention.linear_qkv.weight"
    with pytest.raises(CheckpointError, match=r"does not say the number of attention heads.*method=linear"):
        matrices(as_rows(name, (2, 24, 8), Architecture()), Architecture())
    wrong = Architecture(num_attention_heads=4, num_query_groups=2, kv_channels=8)
    with pytest.raises(CheckpointError, match=r"24 rows, but 4 heads of 8 in 2 groups make 64"):
        matrices(as_rows(name, (2, 24, 8), wrong), wrong)
