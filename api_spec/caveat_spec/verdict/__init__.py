"""The tables of rules by which a line of the gate is decided, one file for each kind of evidence."""
