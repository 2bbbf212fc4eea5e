"""How often the verdicts are wrong where the truth is known: `python -m bench.validation` writes docs/validation.md."""
