"""A study's pages: the forms that raters fill, on paper or served, and what their ratings came to."""
