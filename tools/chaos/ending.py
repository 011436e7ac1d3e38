"""The end of a script that measures in a temporary folder: print the figures, clean up, return the exit status."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


def conclude(
    measure: Callable[[], Figures],
    *,
    table: Callable[[Figures], str],
    passed: Callable[[Figures], bool],
    folder: Path,
    file: Path | None,
    keep: bool,
) -> int:
    """Measure, print the table, write the figures to `file`, and return the exit status.

    The status is 1 if the figures have not `passed`, 2 if the service did not start or did not recover, 130 after
    Ctrl-C. `folder` is deleted unless the run failed or `keep` is set.
    """
    kept = keep
    try:
        figures = measure()
        sys.stdout.write(f"{table(figures)}\n")
        if file:
            file.write_text(json.dumps(figures, indent=2) + "\n")
        kept = kept or not passed(figures)
        return 0 if passed(figures) else 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130
    except AssertionError as error:
        sys.stderr.write(f"the service did not start or did not recover: {error}\n")
        kept = True
        return 2
    finally:
        if kept:
            sys.stderr.write(f"data and logs are kept in {folder}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)
