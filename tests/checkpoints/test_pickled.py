"""What a `.metadata` pickle may name, and that nothing in one changes how the next is read."""

import pickle
from pathlib import Path

import pytest
import torch

from nemo_demix.checkpoints import pickled
from nemo_demix.errors import CheckpointError

PATH = Path("somewhere/.metadata")
SIZE, DTYPE = b"ctorch\nSize\n", b"ctorch\nfloat32\n"
LAYOUT = b"ctorch.serialization\n_get_layout\n"
MAPPING, SLOTS = b"}X\x01\x00\x00\x00aK\x01s", b"(N}X\x01\x00\x00\x00aK\x01st"


def test_torchs_own_values_are_read_as_names_and_integers() -> None:
    values = (torch.Size((4, 3)), torch.bfloat16, torch.float8_e4m3fn)
    size, *dtypes = pickled.load(PATH, pickle.dumps(values))
    assert size == (4, 3)
    assert dtypes == ["bfloat16", "float8_e4m3fn"]
    assert [dtype.itemsize for dtype in dtypes] == [torch.bfloat16.itemsize, torch.float8_e4m3fn.itemsize]


@pytest.mark.parametrize("name", sorted(pickled._ITEM_BYTES))
def test_every_dtype_has_the_size_that_torch_gives_it(name: str) -> None:
    assert pickled.Dtype(name).itemsize == getattr(torch, name).itemsize


@pytest.mark.parametrize("name", ["os\nsystem", "builtins\neval", "torch\nload", "torch\nquint8", "builtins\ngetattr"])
def test_anything_else_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"names {name.replace(chr(10), '.')}, .* nothing of it was run"):
        pickled.load(PATH, f"c{name}\n.".encode())


@pytest.mark.parametrize(
    "data",
    [
        SIZE + b"(X\x01\x00\x00\x00at\x85R.",  # a size of a text
        SIZE + b"(G?\xf0\x00\x00\x00\x00\x00\x00t\x85R.",  # of a fraction
        LAYOUT + b"X\x05\x00\x00\x00plain\x85R.",  # a layout that torch does not know
        DTYPE + b")R.",  # a dtype is not called
        *(target + state + b"b." for target in (SIZE, SIZE + b")R", DTYPE, LAYOUT) for state in (MAPPING, SLOTS)),
    ],
)
def test_a_value_of_another_kind_is_refused_and_what_reads_share_stays_as_it_is(data: bytes) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        pickled.load(PATH, data)
    for shared in (pickled.Size, pickled.Layout, pickled.Dtype, pickled.Size(), pickled.Dtype("float32")):
        assert not hasattr(shared, "a")
