"""`caveat init`: drafts an audit from a model and the data beside it, tries the draft, and writes it if it runs."""

from caveat.scaffold.first_audit import write_first_audit

__all__ = ["write_first_audit"]
