"""How a CSV file separates its cells and writes its numbers, by its first lines: worker and command read it alike."""

from __future__ import annotations

import re
from dataclasses import dataclass

LOOKED_AT = 1 << 16
"""Bytes of a file that show its form."""
OTHERS = ";\t"
"""Separators of a header in which no comma separates: what spreadsheets write where the comma is the decimal point."""
_QUOTED = re.compile(r'"[^"]*"')
_WITH_COMMA = re.compile(r"-?\d+,\d+")
_WITH_POINT = re.compile(r"-?\d+\.\d+")


@dataclass(frozen=True)
class CsvForm:
    """The separator of cells and the decimal point of numbers."""

    separator: str = ","
    decimal_point: str = "."

    def plain(self, cell: str) -> str:
        """A cell as programs read it: a number with a decimal comma, where numbers have one here, gets a point."""
        return cell.replace(",", ".") if self.decimal_point == "," and _WITH_COMMA.fullmatch(cell) else cell


def csv_form(start: str) -> CsvForm:
    """The form of a CSV file by the text that it begins with.

    Numbers have a decimal comma where cells are separated by something else, and some have a comma and none a point.
    """
    header, *lines = start.lstrip("\ufeff").splitlines() or [""]
    names = _QUOTED.sub("", header)
    separator = "," if "," in names else max(OTHERS, key=names.count)
    if separator not in names or separator == ",":
        return CsvForm()
    cells = [cell.strip().strip('"') for line in lines[:-1] or lines for cell in line.split(separator)]
    commas, points = (any(map(pattern.fullmatch, cells)) for pattern in (_WITH_COMMA, _WITH_POINT))
    return CsvForm(separator, "," if commas and not points else ".")
