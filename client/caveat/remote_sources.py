"""Fetches the sources of an audit that are URLs.

Each kind is one row: the package that reads it and the extra that installs that. A URL may end in `#sha256=…`, the
digest that its bytes must have; one of `https://` has to, as nothing else says what it stands for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from caveat.mlflow_library import import_mlflow
from caveat.pack import addressed
from caveat_spec.source_urls import parsed


class SourceFault(Exception):  # noqa: N818
    """A URL that cannot be used; its text is a sentence for the author of the audit file."""


def _with_fsspec(url: str, folder: Path) -> Path:
    """Copies the file at a URL in chunks of one megabyte."""
    import fsspec  # only sources that are URLs need it

    path = folder / PurePosixPath(url).name
    with fsspec.open(url, "rb") as there, path.open("wb") as here:
        shutil.copyfileobj(there, here, 1 << 20)
    return path


def _with_mlflow(url: str, folder: Path) -> Path:
    """The file at an MLflow URL; a model comes with its folder, which holds its data files.

    The folder of a logged model stands for the one ONNX file in it.
    """
    download_artifacts = import_mlflow().artifacts.download_artifacts
    address = url.replace("mlflow:/", "runs:/", 1)
    parent, _, name = address.rpartition("/")
    if name.endswith(".onnx"):
        return Path(download_artifacts(parent, dst_path=str(folder))) / name
    found = Path(download_artifacts(address, dst_path=str(folder)))
    models = [found] if found.is_file() else sorted(found.rglob("*.onnx"))
    if len(models) != 1:
        raise SourceFault(f"'{url}' is a folder with {len(models)} ONNX files: add the path of the file that is meant")
    return models[0]


@dataclass(frozen=True)
class Scheme:
    """One kind of URL."""

    modules: tuple[str, ...]
    """The packages that have to be there."""
    extra: str
    """The extra of this distribution that installs them."""
    fetch: Callable[[str, Path], Path] = _with_fsspec
    """Fetches a URL into a folder, and says which file it is."""
    needs_digest: bool = False
    """Whether a URL has to give the digest of its bytes."""


SCHEMES = {
    "https": Scheme(("fsspec", "aiohttp"), "https", needs_digest=True),
    "http": Scheme(("fsspec", "aiohttp"), "https", needs_digest=True),
    "s3": Scheme(("fsspec", "s3fs"), "s3"),
    "gs": Scheme(("fsspec", "gcsfs"), "gs"),
    "hf": Scheme(("fsspec", "huggingface_hub"), "hf"),
    "models": Scheme(("mlflow",), "mlflow", _with_mlflow),
    "runs": Scheme(("mlflow",), "mlflow", _with_mlflow),
    "mlflow": Scheme(("mlflow",), "mlflow", _with_mlflow),
}
"""The letters before a URL's first colon → its kind; `mlflow:/` is another name for MLflow's `runs:/`."""


def fetch(source: str, folder: Path) -> Path:
    """Fetches a URL into a folder and compares it with its digest; raises `SourceFault`."""
    found = parsed(source)
    if found is None or found.scheme not in SCHEMES:
        known = ", ".join(f"{name}:/{'' if 'mlflow' in scheme.modules else '/'}" for name, scheme in SCHEMES.items())
        raise SourceFault(
            f"'{source}' is no URL that can be fetched: {known}, with '#sha256=' and 64 digits at its end"
        )
    scheme, url, wanted = SCHEMES[found.scheme], found.url, found.digest
    if scheme.needs_digest and wanted is None:
        raise SourceFault(f"'{url}' needs the digest of its bytes: add '#sha256=' and 64 hexadecimal digits")
    missing = [module for module in scheme.modules if find_spec(module) is None]
    if missing:
        raise SourceFault(f"'{url}' needs the package {missing[0]}: run `pip install 'caveat[{scheme.extra}]'`")
    folder.mkdir()
    try:
        path = scheme.fetch(url, folder)
    except SourceFault:
        raise
    except Exception as error:  # each file system has its own
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise SourceFault(f"'{url}' cannot be fetched ({reason})") from error
    if not path.is_file():
        raise SourceFault(f"'{url}' cannot be fetched (there is no such file)")
    if wanted is not None and (came := addressed(path)[1]) != wanted:
        raise SourceFault(f"'{url}' has other bytes now: they are {came}")
    return path
