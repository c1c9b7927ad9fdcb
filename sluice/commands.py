"""The commands of `sluice`: read settings, wire, run."""

import importlib
import sys
from pathlib import Path
from typing import Any

import click

import sluice
from sluice import errors, flags, logs, settings


class Group(click.Group):
    """Commands that say so where a flag that they take once is given twice."""

    command_class = flags.OnceCommand


class Program(Group):
    """All commands. Those that a terminal needs rich for are loaded when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order that --help shows."""
        return sorted((*super().list_commands(ctx), "top"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command with this name, None if there is no such command."""
        if cmd_name != "top":
            return super().get_command(ctx, cmd_name)
        command: click.Command = process("sluice.top").top
        return command


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(sluice.__version__, prog_name="sluice")
def main() -> None:
    """Log budgets: byte budgets per team, enforced between log shippers and Loki."""


@main.command()
@flags.with_options(
    flags.RUN_OPTIONS,
    flags.SERVING_OPTIONS,
    flags.DASHBOARD_OPTIONS,
    flags.NOTIFY_OPTIONS,
    flags.COMMON_OPTIONS,
)
def run(**given: Any) -> None:
    """Enforce budgets from files, in one process, without a cluster."""
    start("run", process("sluice.standalone"), settings.Run.from_flags(given))


@main.command()
@flags.with_options(
    flags.LISTEN_OPTIONS,
    flags.SERVING_OPTIONS,
    flags.CLUSTER_OPTIONS,
    flags.AGENT_OPTIONS,
    flags.COMMON_OPTIONS,
)
def agent(**given: Any) -> None:
    """Enforce a cluster's budgets on one node (runs in the DaemonSet)."""
    start("agent", process("sluice.agent.daemon"), settings.Agent.from_flags(given))


@main.command()
@flags.with_options(
    flags.LISTEN_OPTIONS,
    flags.CLUSTER_OPTIONS,
    flags.CONTROLLER_OPTIONS,
    flags.NOTIFY_OPTIONS,
    flags.COMMON_OPTIONS,
)
def controller(**given: Any) -> None:
    """Sum up the nodes' usage in the status of each budget (runs in the Deployment)."""
    options = settings.Controller.from_flags(given)
    start("controller", process("sluice.controller.process"), options)


@main.command("dashboard")
@flags.with_options(
    flags.PAGES_OPTIONS,
    flags.KUBECONFIG_OPTIONS,
    flags.DASHBOARD_OPTIONS,
    (flags.AUTH, flags.ALLOWED_HOST),
    flags.LOG_OPTIONS,
)
def dashboard_(**given: Any) -> None:
    """Serve the dashboard and REST API of a cluster, read-only."""
    options = settings.Dashboard.from_flags(given)
    start("dashboard", process("sluice.dashboard.process"), options)


def process(module: str) -> Any:
    """Load a command's module when the command runs: no process carries what others need."""
    return importlib.import_module(module)


def start(command: str, module: Any, options: Any) -> None:
    """Run a process; print a mistake of the user in one line and exit with code 2."""
    logs.set_up(options.log_format, options.log_level)
    try:
        module.run(options, logs.config(options.log_format, options.log_level))
    except errors.SluiceError as error:
        print(f"sluice {command}: {error.message}", file=sys.stderr)
        sys.exit(2)


@main.group()
def notify() -> None:
    """Test the notifications about budgets."""


@notify.command("test")
@flags.with_options(flags.NOTIFY_TEST_OPTIONS)
def notify_test(notify: tuple[str, ...], dashboard_url: str | None, team: str) -> None:
    """Send a test message to each sink. Exit code 1 if a sink did not take it."""
    command = process("sluice.notify.command")
    try:
        sys.exit(command.test(notify, dashboard_url, team, sys.stdout))
    except errors.SluiceError as error:
        print(f"sluice notify test: {error.message}", file=sys.stderr)
        sys.exit(2)


@main.command("demo")
@flags.with_options(flags.DEMO_OPTIONS)
def demo_(**given: Any) -> None:
    """Show budgets being enforced, with example teams, shippers and a sink on this machine."""
    sys.exit(process("sluice.demo").demo(settings.Demo.from_flags(given)))


@main.command("validate")
@click.argument("files", nargs=-1, required=True, type=flags.PathType(path_type=Path))
def validate_(files: tuple[Path, ...]) -> None:
    """Check TeamBudget files offline, with the same checks as on a cluster."""
    sys.exit(process("sluice.validate").validate(files, sys.stdout, sys.stderr))
