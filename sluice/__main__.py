"""The `sluice` command: reads settings, wires, runs."""

import sys
from pathlib import Path
from typing import Any

import click

import sluice
from sluice import demo, errors, logs, settings, standalone, validate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(sluice.__version__, prog_name="sluice")
def main() -> None:
    """Log budgets: byte budgets per team, enforced between log shippers and Loki."""


@main.command()
@settings.with_options(settings.RUN_OPTIONS, settings.AGENT_OPTIONS)
def run(**flags: Any) -> None:
    """Enforce budgets from files, in one process, without a cluster."""
    options = settings.Run.from_flags(flags)
    logs.set_up(options.log_format, options.log_level)
    try:
        standalone.run(options, logs.config(options.log_format, options.log_level))
    except errors.SluiceError as error:
        print(f"sluice run: {error.message}", file=sys.stderr)
        sys.exit(2)


@main.command("demo")
@settings.with_options(settings.DEMO_OPTIONS)
def demo_(**flags: Any) -> None:
    """Watch budgets being enforced: example teams, shippers and a sink, all on this machine."""
    sys.exit(demo.demo(settings.Demo.from_flags(flags)))


@main.command("validate")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def validate_(files: tuple[Path, ...]) -> None:
    """Check TeamBudget files offline, with the verdicts of the cluster's own checks."""
    sys.exit(validate.validate(files, sys.stdout, sys.stderr))


if __name__ == "__main__":
    main()
