"""The same question asked of captum 0.9.0: the same network in torch, and the pictures as tensors in memory."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from captum.concept import TCAV, Concept
from captum.concept._utils.data_iterator import dataset_to_dataloader
from torch.utils.data import Dataset

from bench.audits import Question
from bench.cases import pictures
from bench.measure import Prepared
from bench.torch_network import TorchNetwork, module_name


class Pictures(Dataset[torch.Tensor]):
    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, position: int) -> torch.Tensor:
        return self._values[position]


def tcav(folder: str, document: dict[str, Any], random_sets: int, each: int) -> Prepared:
    """Its usual set-up: each concept against every random set of `each` pictures, and random sets against the next.

    The random sets are cut from the audit's reference set, so that both see the same pictures.
    """
    warnings.simplefilter("ignore")
    question = Question(Path(folder), document)
    asked = question.audit()
    model = TorchNetwork(onnx.load(question.folder / document["model"]))
    layers = [module_name(choice.tensor) for choice in asked.layers]  # type: ignore[union-attr]
    reference = pictures(question, asked, "reference")
    sets = {name: pictures(question, asked, one.examples) for name, one in asked.concepts.items()}
    sets |= {f"random{number}": reference[number * each : (number + 1) * each] for number in range(random_sets)}
    assert all(len(values) for values in sets.values()), "the reference set is too small for so many random sets"
    concepts = {
        name: Concept(number, name, dataset_to_dataloader(Pictures(torch.from_numpy(values)), batch_size=each))
        for number, (name, values) in enumerate(sets.items())
    }
    randoms = [concepts[f"random{number}"] for number in range(random_sets)]
    pairs = [[concepts[name], random] for name in asked.concepts for random in randoms]
    pairs += [[one, other] for one, other in zip(randoms, [*randoms[1:], randoms[0]], strict=True)]
    target = next(iter(asked.targets.values()))
    inputs = torch.from_numpy(pictures(question, asked, target.examples))
    work = tempfile.mkdtemp()

    def measured() -> dict[str, Any]:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            audit = TCAV(model, layers, model_id="network", save_path=work)
            started = time.process_time()
            audit.compute_cavs(pairs)
            fitted = time.process_time()
            scores = audit.interpret(inputs, pairs, target=target.index)
        signs = [float(one["sign_count"][0]) for by_layer in scores.values() for one in by_layer.values()]
        disk = sum(path.stat().st_size for path in Path(work).rglob("*") if path.is_file())
        return {
            "cavs_cpu": fitted - started,
            "interpret_cpu": time.process_time() - fitted,
            "disk": disk,
            "experiments": len(pairs),
            "score": float(np.mean(signs)),
        }

    return measured
