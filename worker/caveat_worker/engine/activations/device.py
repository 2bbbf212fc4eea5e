"""Inner products on a GPU: blocks of arrays lie in its memory, and an ONNX graph multiplies them.

ONNX Runtime runs the model already, so that nothing else has to be installed to use the same device for `X Xᵀ`. As on
the CPU, products are summed in float64 over tiles of features, in one order, whatever fits the device.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from caveat_worker.engine.activations.gram import Product, finite
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.session import Provider, Session, gpu_bytes, open_session

ROWS, WIDTH = 1024, 16_384
"""Examples and features of one block: 64 MiB in float32, and twice that while it is multiplied."""
RESIDENT_BYTES = 8 << 30
"""How much stays on a device without a limit."""

GRAPH = """
<ir_version: 8, opset_import: ["": 18]>
inner_products (float[m, d] left, float[n, d] right) => (double[m, n] inner) {
    a = Cast <to = 11> (left)
    b = Cast <to = 11> (right)
    columns = Transpose <perm = [1, 0]> (b)
    inner = MatMul (a, columns)
}
"""


class DeviceProducts:
    """`G Xᵀ` of any two arrays on one device; blocks stay there, the least recently used go first."""

    def __init__(self, provider: Provider, *, threads: int = 0, rows: int = ROWS, width: int = WIDTH) -> None:
        """Opens the session that multiplies."""
        self._session: Session = open_session(
            Graph(ir.from_proto(onnx.parser.parse_model(GRAPH))), provider=provider, threads=threads
        )
        self._kind, self._rows, self._width = provider, rows, width
        self._most = gpu_bytes() or RESIDENT_BYTES
        self._blocks: OrderedDict[tuple[int, int, int], tuple[NDArray[Any], ort.OrtValue]] = OrderedDict()
        self._held = 0

    def __call__(self, wanted: Sequence[Product], threads: int = 1) -> None:
        """Computes products one after the other; raises InvalidInput for numbers that are not finite."""
        for product in wanted:
            self._fill(*product)

    def _fill(self, left: NDArray[Any], right: NDArray[Any], out: Float64Array) -> None:
        itself = left is right
        for above in range(0, len(left), self._rows):
            for beside in range(above if itself else 0, len(right), self._rows):
                panel = np.zeros(out[above : above + self._rows, beside : beside + self._rows].shape)
                for start in range(0, left.shape[1], self._width):
                    panel += self._product(self._block(left, above, start), self._block(right, beside, start))
                out[above : above + self._rows, beside : beside + self._rows] = panel
                if itself and above != beside:
                    out[beside : beside + self._rows, above : above + self._rows] = panel.T
        finite(out)

    def _product(self, left: ort.OrtValue, right: ort.OrtValue) -> Float64Array:
        """One product of two blocks that are on the device; only the result travels."""
        binding = self._session.inference.io_binding()
        binding.bind_ortvalue_input("left", left)
        binding.bind_ortvalue_input("right", right)
        binding.bind_output("inner", "cpu")
        self._session.inference.run_with_iobinding(binding)
        found: Float64Array = binding.copy_outputs_to_cpu()[0]
        return found

    def _block(self, array: NDArray[Any], row: int, column: int) -> ort.OrtValue:
        """A block of an array on the device, copied there if it is not there any more."""
        key = (id(array), row, column)
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key][1]
        part = array[row : row + self._rows, column : column + self._width]
        values = np.ascontiguousarray(part, dtype=np.float32)
        while self._blocks and self._held + values.nbytes > self._most // 2:
            _, (_, old) = self._blocks.popitem(last=False)
            self._held -= int(np.prod(old.shape())) * 4
        block = ort.OrtValue.ortvalue_from_numpy(values, self._kind, 0)
        self._blocks[key] = (array, block)  # the array too, so that nothing else gets its id
        self._held += values.nbytes
        return block
