"""Models in memory as ONNX files, by the exporter of their own library: one row of `EXPORTERS` for each."""

from __future__ import annotations

import copy
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from caveat.objects import class_names
from caveat.problems import problem

_STYLED = re.compile(r"\x1b\[[0-9;]*m")
ROWS = 2
"""Examples that an exporter sees; with one it could take the batch for a constant."""


@dataclass(frozen=True)
class Samples:
    """What an exporter may see of the examples: a few of them, in the shape in which the model takes them."""

    table: Any | None = None
    """A data frame."""
    arrays: Any | None = None
    """An array, or a mapping from inputs to arrays."""
    picture: tuple[int, ...] | None = None
    """The shape of one picture."""


@dataclass(frozen=True)
class Exporter:
    """How the models of one library become ONNX files."""

    base: str
    """The class that its models derive from, by its qualified name."""
    needs: tuple[str, ...]
    """Packages that the export needs."""
    extra: str
    """The extra of this distribution that installs them."""
    export: Callable[[Any, Samples, Path], None]
    takes_categories: bool = True
    """Whether the export knows columns of texts and categories."""


def is_path(model: Any) -> bool:
    """Whether a model is named by a path, a URL or a digest."""
    return isinstance(model, str | Path)


def columns_of(model: Any) -> list[str] | None:
    """The columns that a model was fitted on, in its order; None where it does not know their names."""
    for attribute in ("feature_names_in_", "feature_name_", "feature_names_"):
        names = getattr(model, attribute, None)
        if names is not None and len(names) > 0:
            return [str(name) for name in names]
    return None


def takes_columns(model: Any, table: Any) -> bool:
    """Whether an export has an input for each column: where columns are selected by name, or hold words."""
    steps = [step for _, step in getattr(model, "steps", [])] or [model]
    if any(type(step).__name__ == "ColumnTransformer" for step in steps):
        return True
    columns = [] if table is None else columns_of(model) or list(table.columns)
    return any(not _is_number(table[column].dtype) for column in columns if column in table.columns)


def write_model(model: Any, samples: Samples, path: Path) -> None:
    """Writes a model as an ONNX file; raises a `ProblemError` where no exporter knows it or the export fails."""
    content = model if isinstance(model, bytes) else _serialised(model)
    if content is not None:
        path.write_bytes(content)
        return
    classes = class_names(model)
    exporter = next((one for one in EXPORTERS if one.base in classes), None)
    if exporter is None:
        raise _unknown(model)
    missing = [package for package in exporter.needs if find_spec(package) is None]
    if missing:
        raise problem(
            "no-exporter",
            422,
            f"To export a {type(model).__name__} to ONNX, the package {missing[0]} is needed.",
            f"Run `pip install 'caveat[{exporter.extra}]'`, or export the model yourself and give its path.",
        )
    _check_fitted(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of exporters about themselves
            exporter.export(model, samples, path)
    except Exception as error:  # each library has its own
        categories = [] if exporter.takes_categories else _columns_of_texts(model, samples)
        if categories:
            raise problem(
                "not-exported",
                422,
                f"The {type(model).__name__} could not be exported to ONNX: its exporter takes no categories, such as "
                f"those of '{categories[0]}'.",
                "Train it on numbers, with each category as a column of 0 and 1, or behind an encoder in a pipeline of "
                "scikit-learn.",
            ) from error
        reason = next(iter(_STYLED.sub("", str(error)).strip().splitlines()), "") or type(error).__name__
        raise problem(
            "not-exported",
            422,
            f"The {type(model).__name__} could not be exported to ONNX: {reason.rstrip('.')}.",
            "Export it yourself, as its library describes, and give the path of the ONNX file.",
        ) from error


def _check_fitted(model: Any) -> None:
    """Raises a `ProblemError` for an estimator that was not fitted."""
    if "sklearn.base.BaseEstimator" not in class_names(model):
        return
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise problem(
            "not-exported",
            422,
            f"The {type(model).__name__} is not fitted, so there is nothing to audit.",
            "Call its `fit` first, or give the model that was fitted: a search fits copies of the one that it gets.",
        ) from error


def _columns_of_texts(model: Any, samples: Samples) -> list[str]:
    """The columns of the model that hold no numbers."""
    table = samples.table
    if table is None:
        return []
    columns = columns_of(model) or list(table.columns)
    return [name for name in columns if name in table.columns and not _is_number(table[name].dtype)]


def _unknown(model: Any) -> Exception:
    library = type(model).__module__.split(".")[0]
    known = ", ".join(dict.fromkeys(one.base.split(".")[0] for one in EXPORTERS))
    return problem(
        "unknown-model",
        422,
        f"The model is of type {type(model).__module__}.{type(model).__qualname__}, which is not exported here.",
        f"Export it with {EXPORTED_BY[library]}, and give the path of the ONNX file."
        if library in EXPORTED_BY
        else f"Give the path of an ONNX file, its bytes, an onnx.ModelProto, or a fitted model of {known}.",
    )


def _serialised(model: Any) -> bytes | None:
    """The bytes of an ONNX model in memory; None for anything else."""
    if type(model).__name__ == "ModelProto":
        content: bytes = model.SerializeToString()
        return content
    return None


def _is_number(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") in "biuf"


def _matrix(model: Any, samples: Samples) -> Any:
    """The first rows as an array of float32, with the model's columns in its order."""
    import numpy as np

    if samples.table is not None:
        columns = columns_of(model) or list(samples.table.columns)
        return samples.table[columns][:ROWS].to_numpy(np.float32)
    if samples.arrays is None or isinstance(samples.arrays, dict):
        raise ValueError("the export needs one array or data frame among the examples")
    return np.asarray(samples.arrays[:ROWS], np.float32)


def _from_scikit_learn(model: Any, samples: Samples, path: Path) -> None:
    from skl2onnx import to_onnx

    rows = samples.table
    if rows is not None and takes_columns(model, rows):
        rows = rows[columns_of(model) or list(rows.columns)][:ROWS]
        given = rows.astype({name: "float32" for name in rows.columns if _is_number(rows[name].dtype)})
    else:
        given = _matrix(model, samples)
    options = {"zipmap": False} if hasattr(model, "predict_proba") else None
    with _whole_numbers():
        path.write_bytes(to_onnx(model, given, options=options).SerializeToString())


@contextmanager
def _whole_numbers() -> Iterator[None]:
    """Lets skl2onnx write attributes of truth values, which histogram boosting has and protobuf 7 refuses."""
    from skl2onnx.common import _container

    make_node = _container.make_node

    def with_whole_numbers(*arguments: Any, **attributes: Any) -> Any:
        plain = {name: _whole(value) for name, value in attributes.items()}
        return make_node(*arguments, **plain)

    _container.make_node = with_whole_numbers
    try:
        yield
    finally:
        _container.make_node = make_node


def _whole(value: Any) -> Any:
    """A list of truth values as one of whole numbers, and anything else as it is."""
    truths = isinstance(value, list) and any(type(one).__name__ in ("bool", "bool_") for one in value)
    return [int(one) for one in value] if truths else value


def _input_of(rows: Any) -> list[Any]:
    from onnxmltools.convert.common.data_types import FloatTensorType

    return [("input", FloatTensorType([None, rows.shape[1]]))]


def _from_xgboost(model: Any, samples: Samples, path: Path) -> None:
    from onnxmltools import convert_xgboost

    unnamed = copy.deepcopy(model)  # the converter takes no names but f0, f1, …
    booster = unnamed.get_booster()
    booster.feature_names = booster.feature_types = None
    found = convert_xgboost(unnamed, initial_types=_input_of(_matrix(model, samples)))
    path.write_bytes(found.SerializeToString())


def _from_lightgbm(model: Any, samples: Samples, path: Path) -> None:
    from onnxmltools import convert_lightgbm

    found = convert_lightgbm(model, initial_types=_input_of(_matrix(model, samples)), zipmap=False)
    path.write_bytes(found.SerializeToString())


def _from_catboost(model: Any, samples: Samples, path: Path) -> None:
    model.save_model(str(path), format="onnx")


def _from_torch(model: Any, samples: Samples, path: Path) -> None:
    torch = _loaded("torch")
    args, kwargs = _tensors(samples)
    batch = torch.export.Dim("batch")
    shapes: Any = {name: {0: batch} for name in kwargs} or ({0: batch},)
    training, log = model.training, logging.getLogger("torch.onnx")
    level = log.level
    try:
        log.setLevel(logging.ERROR)  # it names optional packages that are not there
        with torch.no_grad():
            model.eval()(*args, **kwargs)  # says in one line what is wrong with the examples
        torch.onnx.export(
            model, args, str(path), kwargs=kwargs, dynamic_shapes=shapes, external_data=False, verbose=False
        )
    finally:
        log.setLevel(level)
        model.train(training)


def _loaded(library: str) -> Any:
    """The library of a model: whoever has the model has loaded it, so that Caveat itself imports no framework."""
    return sys.modules[library]


def _tensors(samples: Samples) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a network is called with: one tensor, or several by name."""
    import numpy as np

    torch = _loaded("torch")
    if isinstance(samples.arrays, dict):
        return (), {name: torch.as_tensor(np.asarray(array[:ROWS])) for name, array in samples.arrays.items()}
    if samples.arrays is not None:
        rows = np.asarray(samples.arrays[:ROWS])
        return (torch.as_tensor(rows.astype(np.float32) if rows.dtype == np.float64 else rows),), {}
    if samples.table is not None:
        return (torch.as_tensor(_matrix(None, samples)),), {}
    if samples.picture is not None:
        return (torch.zeros(ROWS, *samples.picture),), {}
    raise ValueError("the export needs an array, a data frame or pictures among the examples")


EXPORTED_BY = {
    "keras": "model.export('model.onnx', format='onnx')",
    "tensorflow": "tf2onnx.convert.from_function",
    "paddle": "paddle.onnx.export",
    "pyspark": "onnxmltools.convert_sparkml",
}
"""Libraries whose models have to be exported beforehand, and what exports them."""
EXPORTERS: Sequence[Exporter] = (
    Exporter("xgboost.sklearn.XGBModel", ("onnxmltools",), "xgboost", _from_xgboost, takes_categories=False),
    Exporter("lightgbm.sklearn.LGBMModel", ("onnxmltools",), "lightgbm", _from_lightgbm, takes_categories=False),
    Exporter("catboost.core.CatBoost", (), "catboost", _from_catboost, takes_categories=False),
    Exporter("torch.nn.modules.module.Module", ("onnxscript",), "torch", _from_torch),
    Exporter("sklearn.base.BaseEstimator", ("skl2onnx",), "sklearn", _from_scikit_learn),
)
"""The first row whose class is among a model's counts: boosting libraries derive from scikit-learn's class too."""
