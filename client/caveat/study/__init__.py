"""`caveat study`: the TCAV article's experiment with people, on the maps of a report.

`making.py` deals pictures and maps out to raters. `serving.py` takes their answers and `answers.py` keeps them on the
disk; `ratings.py` reads files of them, `analysis.py` has the statistics and `findings.py` the story. `folder.py` knows
the files of a study.
"""
