"""The `sluice` command: reads settings, wires, runs."""

import importlib
import sys
from pathlib import Path
from typing import Any

import click

import sluice
from sluice import demo, errors, flags, logs, settings, standalone, validate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(sluice.__version__, prog_name="sluice")
def main() -> None:
    """Log budgets: byte budgets per team, enforced between log shippers and Loki."""


@main.command()
@flags.with_options(flags.RUN_OPTIONS, flags.SERVING_OPTIONS, flags.COMMON_OPTIONS)
def run(**given: Any) -> None:
    """Enforce budgets from files, in one process, without a cluster."""
    start("run", standalone, settings.Run.from_flags(given))


@main.command()
@flags.with_options(
    flags.LISTEN_OPTIONS,
    flags.SERVING_OPTIONS,
    flags.CLUSTER_OPTIONS,
    flags.AGENT_OPTIONS,
    flags.COMMON_OPTIONS,
)
def agent(**given: Any) -> None:
    """Enforce a cluster's budgets on one node: the DaemonSet's process."""
    start("agent", on_cluster("sluice.agent.daemon"), settings.Agent.from_flags(given))


@main.command()
@flags.with_options(
    flags.LISTEN_OPTIONS,
    flags.CLUSTER_OPTIONS,
    flags.CONTROLLER_OPTIONS,
    flags.COMMON_OPTIONS,
)
def controller(**given: Any) -> None:
    """Sum up what nodes report into the budgets' status: the Deployment's process."""
    options = settings.Controller.from_flags(given)
    start("controller", on_cluster("sluice.controller.process"), options)


def on_cluster(module: str) -> Any:
    """A process that talks to the API server, loaded when it is wanted: its client is 40 MB."""
    return importlib.import_module(module)


def start(command: str, process: Any, options: Any) -> None:
    """Run a process; a mistake of whoever started it is one line and exit code 2."""
    logs.set_up(options.log_format, options.log_level)
    try:
        process.run(options, logs.config(options.log_format, options.log_level))
    except errors.SluiceError as error:
        print(f"sluice {command}: {error.message}", file=sys.stderr)
        sys.exit(2)


@main.command("demo")
@flags.with_options(flags.DEMO_OPTIONS)
def demo_(**given: Any) -> None:
    """Watch budgets being enforced: example teams, shippers and a sink, all on this machine."""
    sys.exit(demo.demo(settings.Demo.from_flags(given)))


@main.command("validate")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def validate_(files: tuple[Path, ...]) -> None:
    """Check TeamBudget files offline, with the verdicts of the cluster's own checks."""
    sys.exit(validate.validate(files, sys.stdout, sys.stderr))


if __name__ == "__main__":
    main()
