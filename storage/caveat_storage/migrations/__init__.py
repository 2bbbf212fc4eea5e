"""How the tables came to be, one step a file; released steps are never changed."""
