"""`evenkeel`: the command line. Commands load what they need when they are called."""

import os
import sys
from collections.abc import Sequence

import typer

from evenkeel_cli import explain, plan, status
from evenkeel_cli.failing import EXIT_STATUSES, TROUBLE

HELP = f"""Plans and follows large-model inference over unlike servers.

Try it without a cluster:

  cd examples && evenkeel plan -f dag.yaml --servers servers.yaml

{EXIT_STATUSES}
"""
OWN = ("plan", "status", "explain")


def application(*, sandbox: bool = True) -> typer.Typer:
    """Return the command line; leaving the sandbox out makes the others start sooner."""
    app = typer.Typer(
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command("plan")(plan.plan)
    app.command("status")(status.status)
    app.command("explain")(explain.explain)
    if sandbox:
        from evenkeel_sandbox.commands import app as sandbox_app

        app.add_typer(sandbox_app, name="sandbox")
    return app


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; even a defect is told in one line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        application(sandbox=not given or given[0] not in OWN)(args=given, prog_name="evenkeel")
    except Exception as error:
        if os.environ.get("EVENKEEL_DEBUG"):
            raise
        sys.stderr.write(
            f"evenkeel: a defect of evenkeel itself: {type(error).__name__}: {error} "
            "(EVENKEEL_DEBUG=1 shows where)\n"
        )
        sys.exit(TROUBLE)


if __name__ == "__main__":
    run()
