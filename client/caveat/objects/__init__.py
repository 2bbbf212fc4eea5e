"""Objects of Python as the files that an audit names: example sets and models, one row for each kind."""
