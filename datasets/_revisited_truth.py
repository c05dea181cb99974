"""The ground truth of revisited Oxford and Paris: a pickle, and so read with care."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, ConfigDict, NonNegativeInt

from bench.errors import BenchError
from bench.settings import Settings, validated_objects
from datasets._plain_pickle import load_plain

FLAT = BeforeValidator(lambda numbers: np.ravel(numbers).tolist())
Rows = Annotated[list[NonNegativeInt], FLAT]
Box = Annotated[tuple[float, float, float, float], FLAT]


class Query(Settings):
    """What a ground truth says of one query: its box, and rows of `imlist`."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    bbx: Box
    easy: Rows
    hard: Rows
    junk: Rows


class Truth(Settings):
    """`gnd_<name>.pkl`: names of the gallery's and of the queries' images, and the answers."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    imlist: list[str]
    qimlist: list[str]
    gnd: list[Query]


def read_truth(path: Path) -> Truth:
    """Read and check `gnd_<name>.pkl`; raises BenchError naming file, place and expectation."""
    truth = validated_objects(Truth, load_plain(path), str(path))
    images, asked, answered = len(truth.imlist), len(truth.qimlist), len(truth.gnd)
    if asked != answered:
        raise BenchError(f"{path}: qimlist has {asked} entries but gnd {answered}")
    for number, query in enumerate(truth.gnd):
        if max([*query.easy, *query.hard, *query.junk], default=-1) >= images:
            raise BenchError(f"{path}: gnd[{number}] names rows outside imlist, which has {images}")
    return truth
