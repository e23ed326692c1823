"""The command `squall`: takes `run` the short way and everything else through typer."""

import sys


def main() -> None:
    """Entry point of the installed command. Ends the process with the command's exit status."""
    argv = sys.argv[1:]
    if argv[:1] == ["run"]:
        from squall.cli.commands.run import main as run

        sys.exit(run(argv[1:]))
    if argv == ["--version"]:
        from squall import __version__

        print(f"squall {__version__}")
        sys.exit(0)
    from typer.main import get_command

    from squall.cli.typer_app import app
    from squall.cli.ui.help import hide_types_of_flags

    command = get_command(app)
    hide_types_of_flags(command)
    sys.exit(command(argv))


if __name__ == "__main__":
    main()
