"""`caveat keygen`: a key pair for attestations."""

from __future__ import annotations

from pathlib import Path

import click

from caveat.commands.options import PATH


@click.command(short_help="Make a key pair for attestations.")
@click.argument("name", type=PATH, default=Path("caveat"))
def keygen(name: Path) -> None:
    """Make an ed25519 key pair: NAME.key signs attestations (keep it secret), NAME.pub verifies them.

    Set $CAVEAT_SIGNING_KEY to the private key: its PEM text, a file, or a folder of keys, such as a mounted Kubernetes
    secret. To replace a key, keep both in the folder for a while: all keys in it sign.
    """
    from caveat.attestation import make_keys

    keyid = make_keys(name)
    click.echo(f"Wrote {name}.key (signs) and {name}.pub (verifies). The key id is {keyid}.")
    click.echo(f"Next: caveat gate audit.yaml --json report.json --attestation report.dsse.json --sign-key {name}.key")
