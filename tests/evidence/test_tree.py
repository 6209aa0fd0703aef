import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaibei.evidence import tree

# The inputs and roots that the first Certificate Transparency implementations published.
INPUTS = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaves(n: int) -> list[bytes]:
    return [tree.leaf_hash(b"entry %d" % i) for i in range(n)]


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_published_vectors(size: int) -> None:
    hashed = [tree.leaf_hash(bytes.fromhex(i)) for i in INPUTS[:size]]
    assert tree.root(hashed).hex() == ROOTS[size - 1]


def test_the_root_of_nothing_is_the_hash_of_nothing() -> None:
    assert tree.root([]) == hashlib.sha256(b"").digest()


def test_a_node_cannot_be_passed_off_as_an_entry() -> None:
    left, right = leaves(2)
    assert tree.leaf_hash(left + right) != tree.node_hash(left, right)


@given(st.integers(1, 600), st.data())
def test_an_inclusion_proof_leads_to_the_root_and_to_no_other_place(
    size: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    held = leaves(size)
    proof = tree.inclusion(held, index)
    args = {"index": index, "size": size, "proof": proof}
    assert tree.root_from_inclusion(held[index], **args) == tree.root(held)
    assert tree.root_from_inclusion(tree.leaf_hash(b"other"), **args) != tree.root(held)
    if proof:
        with pytest.raises(ValueError):
            tree.root_from_inclusion(held[index], index=index, size=size, proof=proof[:-1])
    with pytest.raises(ValueError):
        tree.root_from_inclusion(
            held[index], index=index, size=size, proof=[*proof, proof[0] if proof else b"x"]
        )


@given(st.integers(1, 400), st.data())
def test_a_consistency_proof_holds_for_a_continuation_and_not_for_a_rewrite(
    size: int, data: st.DataObject
) -> None:
    old = data.draw(st.integers(1, size))
    held = leaves(size)
    proof = tree.consistency(held, old)
    sizes = {"old_size": old, "new_size": size, "new_root": tree.root(held)}
    assert tree.is_consistent(old_root=tree.root(held[:old]), proof=proof, **sizes)

    rewritten = list(held[:old])
    rewritten[data.draw(st.integers(0, old - 1))] = tree.leaf_hash(b"rewritten")
    assert not tree.is_consistent(old_root=tree.root(rewritten), proof=proof, **sizes)
    if proof:
        assert not tree.is_consistent(old_root=tree.root(held[:old]), proof=proof[:-1], **sizes)
