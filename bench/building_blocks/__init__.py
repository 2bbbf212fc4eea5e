"""The building blocks of explanations, held against truths and against other libraries."""
