"""A process that works for another: it ends when that one does, and its last line says what went wrong.

Standard library only.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from instar.errors import ExportError, InstarError

_WRONG = "instar says: "


def run(main: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Carry out `main` and leave; called in the child."""
    _end_with(os.getppid())
    try:
        main(arguments)
    except InstarError as error:
        sys.stderr.write(f"{_WRONG}{' '.join(str(error).split())}\n")
        sys.exit(error.exit_code)
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.write(f"{_WRONG}{type(error).__name__}: {' '.join(str(error).split())[:400]}\n")
        sys.exit(1)


def start(module: str, request: Path, *, log: Path, seconds: float, what: str, threads: int) -> None:
    """Run `module` with a request until it is done. Raises ExportError where it crashes, hangs or says what is wrong.

    log       file that gets everything it prints
    seconds   it may take
    what      it does, for messages
    threads   of OpenMP
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    # The child finds the same Instar, and plug-ins, wherever this process was started.
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(request)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                f"{what} was not done after {seconds:.0f} s and was stopped. Allow more: timeout=60min."
            ) from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code != 0:
        raise ExportError(f"{what} {_why(code, log)}")


def _why(code: int, log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = [line.removeprefix(_WRONG) for line in text if line.startswith(_WRONG)]
    if said:
        return f"failed: {said[-1]}"
    if code == -signal.SIGKILL:
        return "was killed: most often because memory ran out. Free some, or export on a larger machine."
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}. Its last line: {(text or ['none'])[-1][:300]}"
    return f"ended with code {code}. Its last line: {(text or ['none'])[-1][:300]}"


def _end_with(parent: int) -> None:
    """Leave as soon as the parent has gone, however it went."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
