"""`caveat differentiate`: the gradient of a model as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caveat.commands import options
from caveat.commands.options import PATH


@click.command(short_help="Write the gradient of a model as an ONNX file.")
@click.argument("model", type=PATH)
@click.option(
    "--layer",
    "layers",
    metavar="TENSOR",
    multiple=True,
    required=True,
    help="Layer at which to take the gradient; repeatable.",
)
@click.option(
    "--target",
    "targets",
    metavar="CLASS[-CLASS]",
    multiple=True,
    help="Class, or difference of two classes; repeatable. Leave out if the model has a single output.",
)
@click.option("--output", help="Output, or any tensor, with the classes; the first output by default.")
@click.option(
    "--scale",
    type=click.Choice(["logit", "log_probability", "probability"]),
    default="logit",
    show_default=True,
    help="Quantity that is differentiated.",
)
@click.option(
    "--reduce",
    type=click.Choice(["mean", "sum", "max", "last"]),
    help="How several scores per example become one; `last` is a text's last token.",
)
@options.constant
@click.option("--write", "-o", type=PATH, default=Path("gradient.onnx"), show_default=True, help="Output file.")
def differentiate(
    model: Path,
    layers: tuple[str, ...],
    targets: tuple[str, ...],
    output: str | None,
    scale: Any,
    reduce: Any,
    constants: dict[str, float],
    write: Path,
) -> None:
    """Write the gradient of MODEL as a plain ONNX file, for any ONNX Runtime.

    The file takes MODEL's inputs. For each example it returns the target's value and its gradient at each layer:
    `value/TARGET` and `gradient/TARGET/LAYER`. The gradient is compared with finite differences on random input before
    it is written.
    """
    from caveat.gradient import write_gradient
    from caveat.terminal import show_gradient

    asked: dict[str, Any] = {"output": output, "scale": scale, "reduce": reduce, "constants": constants}
    show_gradient(write_gradient(model, layers, targets, write, **asked))
