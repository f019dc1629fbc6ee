"""``zpyro doctor``."""

from __future__ import annotations

import dataclasses
import json

import click

from .common import console


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a text.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Check this installation: versions, devices, the compiler, and every way to compute.

    One small training step is taken by each recurrence in each precision on each device, and is
    compared with the plain loop in float64. The exit code is 0 where everything that this machine
    can do works, and 1 with the reason where something that should work does not.

    \b
    Example:
      zpyro doctor
      zpyro doctor --json > report.json
    """
    from zpyro.analysis import installation

    versions, machine = installation.versions(), installation.machine()
    if not as_json:
        for name, value in {**versions, **machine}.items():
            click.echo(f"{name}: {value or 'not installed'}")
    checks: list[installation.Check] = []
    with console().status("checking the C++ loops and every way to compute"):
        for check in installation.check_installation():
            checks.append(check)
            if not as_json:
                advice = f"; {check.advice}" if check.advice else ""
                click.echo(f"{check.state:6} {check.name}: {check.detail}{advice}")
    failed = [check for check in checks if check.state == "failed"]
    if as_json:
        report = {
            "ok": not failed,
            "versions": versions,
            "machine": machine,
            "checks": [dataclasses.asdict(check) for check in checks],
        }
        click.echo(json.dumps(report, indent=2))
    elif failed:
        names = ", ".join(check.name for check in failed)
        click.echo(f"{len(failed)} of {len(checks)} checks failed: {names}")
    else:
        click.echo(f"everything that this machine can do works ({len(checks)} checks)")
    context.exit(1 if failed else 0)
