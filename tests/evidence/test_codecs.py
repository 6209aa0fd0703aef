import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaibei.evidence import Kind, Subject, keys, kinds, manifest, note, statement, tiles, tree
from zaibei.kernel.errors import Damage, Usage

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(min_value=-(2.0**52), max_value=2.0**52)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(codec="utf-8")).filter(lambda k: k != "drill_id"),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["a", "乙", "rto_s", "x y"]), json_values, max_size=4))
def test_a_statement_reads_back_as_what_was_stated(predicate: dict[str, object]) -> None:
    raw = statement.encode(Kind.ACTION, predicate, [Subject(name="a.txt", sha256="0" * 64)])
    assert (
        statement.encode(
            Kind.ACTION, statement.decode(raw).predicate, statement.decode(raw).subject
        )
        == raw
    )
    assert json.loads(raw)["predicate"] == json.loads(json.dumps(predicate))


def test_a_statement_with_a_space_more_is_damage() -> None:
    raw = statement.encode(Kind.ACTION, {"a": 1})
    with pytest.raises(Damage):
        statement.decode(raw.replace(b'"a":1', b'"a": 1'))


@pytest.mark.parametrize("bad", [float("nan"), 2**60, 2.0**53, {1, 2}, b"bytes"])
def test_what_is_not_plain_json_is_refused_before_it_is_signed(bad: object) -> None:
    with pytest.raises(Usage, match="not plain JSON"):
        statement.encode(Kind.ACTION, {"x": bad})


def test_a_drill_id_that_could_be_read_in_two_places_is_refused() -> None:
    with pytest.raises(Usage, match="more than once"):
        statement.encode(Kind.INTENT, {"drill_id": "d1", "control": {"drill_id": "d2"}})


@pytest.mark.parametrize("name", ["../x", "/x", "a b", "人口.csv", "", "a//b", "a\nb", ".hidden"])
def test_a_name_that_a_script_could_trip_over_is_refused(name: str) -> None:
    with pytest.raises(Usage):
        Subject(name=name, sha256="0" * 64)


def test_a_misspelt_predicate_type_gets_the_nearest_name() -> None:
    with pytest.raises(Usage) as told:
        kinds.checked("urn:zaibei:intnt/v1")
    assert "urn:zaibei:intent/v1" in told.value.hints[0]
    with pytest.raises(Usage, match="no such predicate type"):
        kinds.checked("urn:zaibei:self-test/v1")


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_a_bundle_of_entries_reads_back(entries: list[bytes]) -> None:
    raw = tiles.encode_bundle(entries)
    assert tiles.decode_bundle(raw, len(entries)) == entries
    for cut in (1, len(raw) // 2):
        if 0 < cut < len(raw) and entries:
            with pytest.raises(Damage):
                tiles.decode_bundle(raw[:-cut], len(entries))


def test_tiles_lie_where_the_format_says() -> None:
    assert tiles.path(0, 1234067) == "tile/0/x001/x234/067"
    assert tiles.path("entries", 0, 7) == "tile/entries/000.p/7"


def test_a_tree_of_70000_has_the_tiles_of_the_specification() -> None:
    hashed = [tree.leaf_hash(b"%d" % n) for n in range(70_000)]
    found = {name: len(raw) // 32 for name, raw in tiles.hash_tiles(hashed)}
    assert sum(1 for n in found if n.startswith("tile/0/") and ".p/" not in n) == 273
    assert found["tile/0/273.p/112"] == 112
    assert found["tile/1/000"] == 256
    assert found["tile/1/001.p/17"] == 17
    assert found["tile/2/000.p/1"] == 1
    assert len(found) == 277


def test_the_key_id_is_that_of_the_specification() -> None:
    # The verifier key and checkpoint of the Go checksum database, as its clients have them built in.
    public = keys.base64.b64decode("Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8")[1:]
    assert note.key_id("sum.golang.org", note.ED25519, public).hex() == "033de0ae"


HEAD = note.Checkpoint(origin="urn:zaibei:log:x", size=7, root=bytes(range(32)))
LINE = note.SignatureLine(name="urn:zaibei:log:x", key_id=b"abcd", signature=bytes(64))


def test_no_byte_of_a_note_can_change_unseen() -> None:
    raw = note.Note(text=HEAD.encode(), signatures=(LINE, LINE)).encode()
    assert note.parse_checkpoint(note.parse(raw).text) == HEAD
    for at in range(len(raw)):
        for bit in range(8):
            spoilt = raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
            try:
                other = note.parse(spoilt)
            except Damage:
                continue
            assert other != note.parse(raw), (at, bit)


@pytest.mark.parametrize(
    "raw", [b"", b"a\n", b"a\n\n", b"a\n\nb\n", b"a\n\n\xe2\x80\x94 x ====\n", b"\xff\n\n"]
)
def test_half_a_note_is_damage(raw: bytes) -> None:
    with pytest.raises(Damage):
        note.parse(raw)


def test_a_manifest_that_points_outside_the_pack_is_damage() -> None:
    good = manifest.Manifest(
        title="t", log=HEAD, packed_at="2026-01-01T00:00:00Z", files={"a/b": "0" * 64}
    )
    assert manifest.parse(good.encode()) == good
    with pytest.raises(Damage):
        manifest.parse(good.encode().replace(b"a/b", b"../b"))
    with pytest.raises(Usage):
        manifest.checked_title("two\nlines")


def test_the_order_rules() -> None:
    def steps(*kinds_and_drills: tuple[Kind, str]) -> list[kinds.Step]:
        return [
            kinds.Step(index=n, predicate_type=k, drill_id=d)
            for n, (k, d) in enumerate(kinds_and_drills)
        ]

    good = steps(
        (Kind.INTENT, "a"), (Kind.OUTCOME, "a"), (Kind.SWITCH_BACK, "a"), (Kind.INTENT, "b")
    )
    assert kinds.disorder(good) == []
    assert kinds.open_intents(good) == ["b"]
    assert "without its intent" in kinds.disorder(steps((Kind.OUTCOME, "a")))[0]
    assert "without its intent" in kinds.disorder(steps((Kind.OUTCOME, "a"), (Kind.INTENT, "a")))[0]
    assert "second intent" in kinds.disorder(steps((Kind.INTENT, "a"), (Kind.INTENT, "a")))[0]
    two = steps((Kind.INTENT, "a"), (Kind.ABORTED, "a"), (Kind.OUTCOME, "a"))
    assert "second end" in kinds.disorder(two)[0]
