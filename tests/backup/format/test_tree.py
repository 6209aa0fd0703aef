"""Listings: what is written is read, what is not is refused."""

import itertools
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backup.crypto.suite import ID_BYTES
from backup.errors import NewerFormat
from backup.format import tree
from backup.format.tree import Node, Object, Type, segments
from zaibei.kernel.errors import Damage, Missing

numbers = st.integers(min_value=-(2**63), max_value=2**63 - 1)
sizes = st.integers(min_value=0, max_value=2**53)
raw = st.binary(max_size=40)
names = st.one_of(st.binary(min_size=1, max_size=300), st.text(min_size=1).map(str.encode)).map(
    lambda name: name.replace(b"\0", b"0")
)
owners = st.integers(min_value=0, max_value=tree.ID_MAX)
modes = st.integers(min_value=0, max_value=tree.MODE_MAX)
majors, minors = (st.integers(min_value=0, max_value=most) for most in tree.RDEV_MAX)
texts = st.text(max_size=20)
ids = st.lists(st.binary(min_size=ID_BYTES, max_size=ID_BYTES), max_size=4).map(tuple)
xattrs = st.dictionaries(names, raw, max_size=3).map(lambda d: tuple(sorted(d.items())))
common = {"path": names, "mode": modes, "mtime_ns": numbers, "uid": owners, "gid": owners}
stats = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {"ctime_ns": numbers, "device": sizes, "inode": st.integers(min_value=1, max_value=2**63)}
    ),
)


@st.composite
def holes(draw: st.DrawFn) -> dict[str, object]:
    cuts = sorted(draw(st.sets(st.integers(min_value=0, max_value=10_000), max_size=8)))
    pairs = tuple((a, b - a) for a, b in zip(cuts[::2], cuts[1::2], strict=False))
    size = max((a + n for a, n in pairs), default=0) + draw(st.integers(0, 50))
    return {"holes": pairs, "size_bytes": size, "blobs": draw(ids)}


def node(type_: Type, **fields: st.SearchStrategy[object]) -> st.SearchStrategy[Node]:
    return st.builds(
        lambda a, b, x: Node(type=type_, xattrs=x, **a, **b),
        st.fixed_dictionaries(common | fields),
        stats,
        xattrs,
    )


objects = st.builds(
    Object,
    version=st.none() | texts,
    etag=texts,
    latest=st.booleans(),
    meta=st.dictionaries(texts, texts, max_size=3).map(lambda d: tuple(sorted(d.items()))),
)
nodes = st.one_of(
    node(Type.FILE, blobs=ids, size_bytes=sizes, hard=names | st.just(b"")),
    st.builds(lambda n, h: tree.replace(n, **h), node(Type.FILE), holes()),
    node(Type.DIRECTORY),
    node(Type.LINK, target=names),
    *(node(t) for t in (Type.FIFO, Type.SOCKET)),
    *(node(t, rdev=st.tuples(majors, minors)) for t in (Type.CHAR, Type.BLOCK)),
    node(Type.OBJECT, object=objects, blobs=ids, size_bytes=sizes),
    node(Type.MARKER, object=objects),
)


patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(st.lists(nodes, max_size=4))
def test_every_entry_that_is_written_is_read_as_it_was(given_: list[Node]) -> None:
    lines = [line for n in given_ for line in tree.encode(n)]

    assert list(tree.decode([b"".join(lines)])) == given_


@settings(patient, max_examples=200)
@given(nodes, st.data())
def test_a_line_with_another_value_in_a_field_is_damage_or_another_entry(
    one: Node, data: st.DataObject
) -> None:
    """Never an error of the language, and never a value of another kind in an entry."""
    fields = json.loads(next(iter(tree.encode(one))))
    key = data.draw(st.sampled_from(sorted(fields)))
    fields[key] = data.draw(
        st.none() | st.booleans() | st.floats() | texts | st.lists(st.integers()) | sizes
    )
    try:
        (read,) = tree.decode([json.dumps(fields).encode() + b"\n"])
    except (Damage, Missing):
        return
    assert type(read.path) is bytes and type(read.size_bytes) is int and type(read.mode) is int
    assert all(len(i) == ID_BYTES for i in read.blobs)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_listing_are_damage(junk: bytes) -> None:
    try:
        list(tree.decode([junk]))
    except (Damage, Missing):
        return
    assert not junk.strip()


def test_an_entry_of_a_type_from_the_future_is_not_left_out_unseen() -> None:
    (line,) = tree.encode(Node(path=b"x", type=Type.FIFO, mode=0, mtime_ns=0))

    with pytest.raises(NewerFormat, match="teleport"):
        list(tree.decode([line.replace(b'"fifo"', b'"teleport"')]))


@pytest.mark.parametrize(
    "holes", [[[5, 5], [7, 1]], [[0, 11]], [[3, 0]], [[-1, 2]], [[0, 2], [2, 2]], [[0, True]]]
)
def test_holes_that_overlap_or_leave_the_file_are_damage(holes: list[list[int]]) -> None:
    (line,) = tree.encode(Node(path=b"x", type=Type.FILE, mode=0, mtime_ns=0, size_bytes=10))
    fields = json.loads(line) | {"holes": holes}

    with pytest.raises(Damage):
        list(tree.decode([json.dumps(fields).encode()]))


@given(holes())
def test_holes_and_segments_together_are_the_whole_file(fields: dict[str, object]) -> None:
    one = tree.replace(Node(path=b"x", type=Type.FILE, mode=0, mtime_ns=0), **fields)
    covered = sorted([*one.holes, *segments(one)])

    assert sum(n for _, n in covered) == one.size_bytes
    assert sum(n for _, n in segments(one)) == one.data_bytes
    assert all(a + n == b for (a, n), (b, _) in itertools.pairwise(covered))


IMPOSSIBLE = [
    (Type.FILE, {"uid": -5}),
    (Type.FILE, {"gid": 2**32 - 1}),
    (Type.DIRECTORY, {"mode": 2**40}),
    (Type.FILE, {"mode": -1}),
    (Type.FILE, {"size_bytes": -1}),
    (Type.FILE, {"size_bytes": 2**63}),
    (Type.FILE, {"size_bytes": 2**63, "holes": ((0, 2**63),)}),
    (Type.FILE, {"path": b"bad\0name"}),
    (Type.FILE, {"hard": b"x\0y"}),
    (Type.LINK, {"target": b"x\0y"}),
    (Type.FIFO, {"xattrs": ((b"user.x\0y", b""),)}),
    (Type.CHAR, {"rdev": (2**12, 0)}),
    (Type.BLOCK, {"rdev": (0, 2**64 - 1)}),
    (Type.BLOCK, {"rdev": (-1, 0)}),
]


@pytest.mark.parametrize(("type_", "fields"), IMPOSSIBLE)
def test_what_no_system_call_takes_is_damage_and_names_its_entry(
    type_: Type, fields: dict[str, object]
) -> None:
    """A compromised host can sign such a listing: a restore and a verify would end with a traceback."""
    made = Node(**({"path": b"bad", "type": type_, "mode": 0o600, "mtime_ns": 0} | fields))  # type: ignore[arg-type]

    with pytest.raises(Damage, match="'bad"):
        list(tree.decode(tree.encode(made)))


def test_a_key_of_a_bucket_may_be_anything() -> None:
    made = Node(
        path=b"a\0b",
        type=Type.MARKER,
        mode=0,
        mtime_ns=0,
        object=Object(version=None, etag="", latest=True),
    )

    assert list(tree.decode(tree.encode(made))) == [made]
