"""`scripts/parity`: writes `docs/modal-parity.md` anew; with ``--missing``, prints what is missing instead."""

import sys

from support.parity.document import DOCUMENT, render, rows


def main() -> None:
    found, reasons = rows()
    if "--missing" in sys.argv[1:]:
        for row in found:
            if row.verdict == "missing":
                print(row.name, "·", row.why or "no such name")
        return
    DOCUMENT.write_text(render(found))
    for pattern in reasons.stale:
        print(f"reasons.toml: {pattern!r} fits no name", file=sys.stderr)


main()
