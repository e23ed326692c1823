"""`squall doctor`: what this host can do, which driver is chosen, and what to install for more."""

import sys

from squall.cli.ui.display import wants_colour
from squall.cli.ui.existing_server import needs_server_packages, plain_errors


def main(*, as_json: bool) -> int:
    """Write the report to stdout. Exit status 0 when functions can run here at all."""
    with plain_errors():
        needs_server_packages()
        from squall.runtime.host import inspect_host

        report = inspect_host()
    if as_json:
        import msgspec

        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
        return 0
    colour = wants_colour(sys.stdout)
    width = max((len(finding.name) for finding in report.findings), default=0)
    for finding in report.findings:
        sign = "✓" if finding.ok else "✗"
        shown = f"\x1b[{32 if finding.ok else 31}m{sign}\x1b[0m" if colour else sign
        sys.stdout.write(f"{shown} {finding.name.ljust(width)}  {finding.found}\n")
        if finding.advice and not finding.ok:
            sys.stdout.write(f"  {' ' * width}  → {finding.advice}\n")
    sys.stdout.write(f"\ndriver  {report.driver}: {report.reason}\n")
    return 0
