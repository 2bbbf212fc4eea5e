"""How a report is shown: each module here turns one report into one text, and does nothing else."""
