"""`harness agents`: which coding agents are here, and with what they are called."""

import json

import click

from harness.agents.known import AGENTS


@click.command(epilog="\b\nExamples:\n  harness agents\n  harness loop --agent command --command claude")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def agents(as_json: bool) -> None:
    """Coding agents that are known by name: installed, signed in, and their command line."""
    if as_json:
        every = [
            {
                "name": agent.name, "installed": agent.is_here, "signed_in": agent.is_signed_in,
                "command": agent.command, "page": agent.page,
            }
            for agent in AGENTS
        ]  # fmt: skip
        click.echo(json.dumps(every))
        return
    for agent in AGENTS:
        if not agent.is_here:
            state, mend = "not installed", agent.page
        elif not agent.is_signed_in:
            state, mend = "not signed in", agent.sign_in
        else:
            state, mend = "ready", f"harness loop --agent command --command {agent.name}"
        click.echo(f"{agent.name:<10} {state:<14} {mend}")
        click.echo(f"{'':<10} {agent.command}")
