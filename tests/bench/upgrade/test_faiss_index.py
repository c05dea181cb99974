"""An index keeps up with the backfill: each item answers with its newest embedding only."""

import numpy as np
import pytest

from bench.errors import BenchError
from bench.upgrade.faiss_index import UpdatableIndex


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "HNSW16"])
def test_an_updated_item_answers_with_its_new_embedding_only(factory):
    old = np.eye(6, 8)
    new = np.roll(np.eye(6, 8), 2, axis=1)
    index = UpdatableIndex(factory, old, "nprobe=4" if factory.startswith("IVF") else "")
    for rows in ([1], [4, 0], [1]):
        index.update(np.array(rows), new)
    stored = old.copy()
    stored[[0, 1, 4]] = new[[0, 1, 4]]
    for row in range(6):
        answer = index.search(stored[row : row + 1].astype(np.float32), 6)[0]
        assert sorted(answer[answer >= 0]) == list(range(6))
        best = np.flatnonzero(stored @ stored[row] > 0.5)
        assert set(answer[: len(best)]) == set(best)


def test_unknown_factory_strings_are_refused():
    with pytest.raises(BenchError, match="FAISS cannot make an index 'Bogus' of width 8"):
        UpdatableIndex("Bogus", np.eye(6, 8))


def test_indexes_on_a_gpu_retire_items_like_graphs_do(monkeypatch):
    """FAISS cannot remove from GPU indexes; here a flat index is treated as if it were one."""
    monkeypatch.setattr("bench.upgrade.faiss_index._fits_gpu", lambda index: True)
    monkeypatch.setattr("bench.upgrade.faiss_index.faiss.get_num_gpus", lambda: 1)
    for name in ("index_cpu_to_all_gpus", "index_gpu_to_cpu"):
        monkeypatch.setattr(
            f"bench.upgrade.faiss_index.faiss.{name}", lambda index: index, raising=False
        )
    index = UpdatableIndex("Flat", np.eye(6, 8))
    index.update(np.arange(4), np.roll(np.eye(6, 8), 2, axis=1))
    assert (index.on_gpu, index.rebuilds) == (True, 1)
    assert index.search(np.eye(6, 8, dtype=np.float32)[:1], 6)[0].tolist()[0] in range(6)
