"""`caveat explain-error`: what a kind of problem is about."""

from __future__ import annotations

import click


@click.command(short_help="Say what a kind of problem is about.")
@click.argument("code")
def explain_error(code: str) -> None:
    """Say what the problem CODE is about: the sentences it comes with, and what to do.

    CODE is the end of an answer's `type`, such as not-found, or the whole of it. In the sentences … stands for what is
    filled in when it happens.
    """
    from caveat.problems import problem
    from caveat_spec import problem_codes

    kind = problem_codes.kind(code)
    if kind is None:
        near = problem_codes.near(code)
        also = f"Written alike: {', '.join(near)}." if near else "Copy it from the `type` of the answer."
        raise problem("no-such-problem", 422, f"There is no kind of problem '{code}'.", also)
    statuses = ", ".join(map(str, kind.statuses))
    click.echo(f"{kind.title} (status {statuses})" if statuses else kind.title)
    for sentence, remedy in kind.said:
        click.echo(f"\n  {sentence}\n  Remedy: {remedy}")
    if not kind.said:
        click.echo("\n  Its sentence and remedy are made as it happens: read `detail` and `remedy` of the answer.")
